"""`benchmark.py scaling`: what a training step costs each rank on many GPUs, by the formulas of docs/scaling.md.

W ranks, N samples of the global batch, C classes, E embedding size, P weights of the backbone. Nothing is measured;
tests/test_scaling.py counts the collectives and bytes of real steps on a few ranks.
"""

import argparse
import json

from fr.losses.classifier import shard_rows
from fr.losses.sampling import drawn_count
from tools.benchmarks.head import Collective, head_collectives, head_cost

RANKS = (8, 64, 512)
_CLASSES = (1_000_000, 10_000_000, 100_000_000)
_FIRST_BUCKET, _BUCKET = 1 << 20, 25 << 20  # bytes; torch.nn.parallel.DistributedDataParallel


def step_collectives(weights: int, embed_size: int, batch: int) -> dict[str, list[Collective]]:
    """Collectives of a step in one micro-batch by part. A log record has none: its metrics are equal on all ranks."""
    size = 4 * weights
    buckets = 1 + max(0, -(-(size - _FIRST_BUCKET) // _BUCKET))
    return {
        "agreement": [Collective("all_reduce", 8)],
        "head": head_collectives(embed_size, batch),
        "gradients": [Collective("all_reduce", size // buckets)] * buckets,
        "norm": [Collective("all_reduce", 4)],
    }


def run(arguments: argparse.Namespace) -> None:
    """Print both tables."""
    lines = tables(arguments.weights, arguments.embed_size, arguments.batch, arguments.sample_rate)
    print("\n".join(lines))
    print(json.dumps({name: value for name, value in vars(arguments).items() if name != "part"}))


def tables(weights: int, embed_size: int, share: int, rate: float) -> list[str]:
    """Lines of both tables, in Markdown. share: samples of a rank."""
    lines = ["| ranks | part | collectives | MB sent | hops in a ring |", "|---|---|---|---|---|"]
    for ranks in RANKS:
        for part, collectives in step_collectives(weights, embed_size, share * ranks).items():
            sent = sum(one.sent(ranks) for one in collectives) / 1e6
            hops = sum(one.hops(ranks) for one in collectives)
            lines.append(f"| {ranks} | {part} | {len(collectives)} | {sent:,.2f} | {hops:,} |")
    lines += ["", f"| classes | ranks | kept GB | step GB | in all | with rate {rate} | TFLOP | with rate {rate} |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for classes in _CLASSES:
        for ranks in RANKS:
            whole, sampled = (head_cost(classes, embed_size, share * ranks, ranks, one) for one in (1.0, rate))
            rows = shard_rows(classes, ranks, 0)[1]
            # Three products of N, E and the classes in use.
            work, less = (
                6 * share * ranks * embed_size * used / 1e12 for used in (rows, drawn_count(rows, share * ranks, rate))
            )
            lines.append(
                f"| {classes:,} | {ranks} | {whole.kept / 1e9:.1f} | {whole.step / 1e9:.1f} | {whole.memory / 1e9:.1f} "
                f"| {sampled.memory / 1e9:.1f} | {work:.1f} | {less:.1f} |"
            )
    return lines
