"""The checks by name: most telling first, and together those that measure no time, which run side by side.

place: module and function, `tests.gpu.<module>.<function>(job)`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """seconds: time limit on a GPU. alone: measures time, so nothing runs beside it."""

    name: str
    place: str
    seconds: int
    alone: bool
    claim: str


CHECKS = {
    check.name: check
    for check in (
        Check("environment", "environment.check", 60, True, "NCCL group, DALI's GPU graph, decoding on the GPU"),
        Check("losses-of-training", "training.check", 120, False, "train.py on the GPU has the CPU's losses"),
        Check("pixels", "pixels.check", 120, False, "DALI's faces are those of the CPU, with each augmentation"),
        Check("buffers", "buffers.check", 120, False, "no image is overwritten while the step still reads it"),
        Check("damaged-files", "damaged.check", 120, False, "damaged JPEGs are refused as on the CPU"),
        Check("loader", "loader.check", 60, True, "images/s of decoding and aligning"),
        Check("step", "step.check", 150, True, "images/s, memory and MFU of a training step"),
        Check("profile", "profile.check", 40, True, "kernels of a training step"),
        Check("end-to-end", "endtoend.check", 90, True, "train.py from JPEGs keeps up with loader and step"),
        Check("head", "head.check", 90, True, "time and memory of the softmax head at a million classes"),
        Check("resume", "resume.check", 120, False, "resuming is exact, and crosses devices"),
        Check("every-loss", "losses.check", 120, False, "each loss and its gradients are those of the CPU"),
        Check("evaluation", "evaluation.check", 120, False, "evaluate_lfw.py has the CPU's AUC"),
        Check("ranks", "ranks.check", 300, False, "a killed rank, SIGTERM, several ranks"),
    )
}
