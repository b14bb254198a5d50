"""The results as a table on the screen, JSON, and Markdown for docs/gpu.md."""

import json
from pathlib import Path

import torch

from tests.gpu.runner import Result


def write_report(results: list[Result], device: str, out: Path, seconds: float) -> None:
    """Print the table, and write OUT/gpu.json and OUT/gpu.md."""
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    title = f"{card}, torch {torch.__version__}, {seconds:.0f} s"
    content = {
        "card": card,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "checks": {
            result.check.name: {
                "passed": result.passed,
                "seconds": round(result.seconds, 1),
                "problem": result.problem,
                "findings": result.findings,
            }
            for result in results
        },
    }
    (out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    rows = [f"| check | {title} | |", "|---|---|---|"]
    for result in results:
        rows.append(f"| `{result.check.name}`: {result.check.claim} | {_verdict(result)} | {_cell(result)} |")
    (out / "gpu.md").write_text("\n".join(rows) + "\n")
    print(f"\n{title}")
    for result in results:
        print(f"{result.check.name:20} {_verdict(result):24} {result.seconds:6.1f} s  {result.check.claim}")


def _verdict(result: Result) -> str:
    skipped = sum(one["kind"] == "skip" for one in result.findings)
    return "passed" * result.passed + "failed" * (not result.passed) + f", {skipped} not checked" * bool(skipped)


def _cell(result: Result) -> str:
    parts = [f"{one['text']}: {one['value']} {one['end']}".replace(":  ", ": ") for one in result.findings]
    return "; ".join(part.replace("|", "/") for part in [*parts, *([result.problem] if result.problem else [])])
