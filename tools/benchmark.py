#!/usr/bin/env python3
"""Benchmarks of the trainer's parts on this machine.

    python tools/benchmark.py head                          # the softmax head, up to a million classes
    python tools/benchmark.py head --classes 8631 --ranks 1 # a quick look
    python tools/benchmark.py scaling                       # bytes, messages, memory on up to 512 ranks, by formula
    python tools/benchmark.py step --model iresnet50        # a whole training step of a backbone
    python tools/benchmark.py snapshot                      # snapshot writing, at a million classes
    python tools/benchmark.py startup                       # reading lists as long as VGGFace2's
    python tools/benchmark.py loader --train @configs/faces_mini.yml  # images into aligned faces
    python tools/benchmark.py evaluate --eval --snap m.onnx --val_data_root lfw --flipped_emb  # a verification set
    python tools/benchmark.py endurance                     # memory, files and threads of a long run

Each prints a table, and one line of JSON at the end. Timings are medians with their spread; run nothing else meanwhile.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/benchmark.py")

from importlib import import_module

from fr.errors import run_plainly
from tools.options.benchmark import options as read_options


def main(argv: list[str]) -> int:
    options = read_options(argv)
    import_module(f"tools.benchmarks.{options.part}").run(options)
    return 0


if __name__ == "__main__":
    run_plainly("tools/benchmark.py", main)
