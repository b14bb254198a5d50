"""Names of the commands: scripts in a checkout, `python tools/detect_faces.py`; `fr-detect` in an installed package.

Both run the same files. An installed package has them in fr/scripts/, with the recipes.
"""

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

from fr.options.variables import unexpanded

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = (_PACKAGE / "scripts").is_dir()
SCRIPTS = _PACKAGE / "scripts" if _INSTALLED else _PACKAGE.parent  # the folder of train.py, tools/ and configs/
# Command of an installed package → script; pyproject.toml has the same list.
COMMANDS = {
    "fr-train": "train.py",
    "fr-evaluate": "evaluate_lfw.py",
    "fr-align": "tools/align_faces.py",
    "fr-benchmark": "tools/benchmark.py",
    "fr-check": "tools/check_dataset.py",
    "fr-choose-threshold": "tools/choose_threshold.py",
    "fr-classify": "tools/classify.py",
    "fr-compare-losses": "tools/compare_losses.py",
    "fr-compare-models": "tools/compare_models.py",
    "fr-compare-runs": "tools/compare_runs.py",
    "fr-count-flops": "tools/count_flops.py",
    "fr-detect": "tools/detect_faces.py",
    "fr-evaluate-ijb": "tools/evaluate_ijb.py",
    "fr-evaluate-tinyface": "tools/evaluate_tinyface.py",
    "fr-export-onnx": "tools/export_onnx.py",
    "fr-export-weights": "tools/export_weights.py",
    "fr-extract": "tools/extract_features.py",
    "fr-find-overlap": "tools/find_overlap.py",
    "fr-identify": "tools/identify.py",
    "fr-import-weights": "tools/import_weights.py",
    "fr-label-noise": "tools/label_noise.py",
    "fr-make-list": "tools/make_list.py",
    "fr-sample-data": "tools/make_sample_data.py",
    "fr-pack": "tools/pack_dataset.py",
    "fr-plan": "tools/plan.py",
    "fr-plot-roc": "tools/plot_roc.py",
    "fr-report-runs": "tools/report_runs.py",
    "fr-reproduce": "tools/reproduce.py",
    "fr-score-file": "tools/score_file.py",
    "fr-show-batch": "tools/show_batch.py",
}
_NAMES = {script: command for command, script in COMMANDS.items()}
_CALL = re.compile(rf"(python |torchrun (?:--\w+ \w+ )*)?\b({'|'.join(map(re.escape, _NAMES))})(?!\w)")


def run_script() -> None:
    """Entry point of an installed package: run the script that belongs to the name of the started command."""
    command = Path(sys.argv[0]).name
    sys.path.insert(0, str(SCRIPTS))
    runpy.run_path(str(SCRIPTS / COMMANDS[command]), run_name="__main__")


def command_name(script: str) -> str:
    """Name of a script for its messages, as the user calls it."""
    return _NAMES.get(script, script) if _INSTALLED else script


def as_called(text: str) -> str:
    """Replace the calls of scripts in a text, such as a docstring, by those that work in this installation."""

    def call(match: re.Match[str]) -> str:
        launcher = match[1] or ""
        return (f"{launcher}--no-python " if launcher.startswith("torchrun") else "") + _NAMES[match[2]]

    return _CALL.sub(call, text) if _INSTALLED else text


def recipe(path: str) -> str:
    """Path of a recipe: if `configs/NAME.yml` isn't in this folder, the one that was installed with the scripts."""
    return str(SCRIPTS / path) if path.startswith("configs/") and not os.path.exists(path) else path


def command_line(script: str, *words: str, launch: str = "python", **options: str) -> str:
    """Command that runs a script, quoted for a shell in this folder.

    script: path below `SCRIPTS`. words: arguments as they are. options: by name, with values that the script's
    `expand_variables` is to leave unchanged. launch: `python`, or torchrun with its options.
    """
    values = [word for name, value in options.items() for word in (f"--{name}", unexpanded(value))]
    call = [*launch.split(), _from_here(script)]
    if _INSTALLED:
        call = [*launch.split(), "--no-python", _NAMES[script]] if launch.startswith("torchrun") else [_NAMES[script]]
    return shlex.join([*call, *words, *values])


def next_command(script: str, *words: str, **options: str) -> str:
    """Line at the end of a command's output that suggests the next command; arguments as in `command_line`."""
    return f"next: {command_line(script, *words, **options)}"


def _from_here(script: str) -> str:
    path = SCRIPTS / script
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here
