"""Run the checks of `tests/gpu.sh`, each in a process of its own with a time limit, and write the table.

    bash tests/gpu.sh OUT                              # on the GPU of this machine
    bash tests/gpu.sh --only step head -- OUT          # two of the checks
    bash tests/gpu.sh --device cpu OUT                 # the same code with small sizes

Images come from $FR_SHARED_DATA/faces-mini where that is set, else from tools/make_sample_data.py. Results appear as
they come; at the end OUT has gpu.json, gpu.md and a folder with a log for each check. Exit status: 0 when all
checks passed, 1 when one failed, 2 when the machine or the options don't allow the run.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from fr.errors import InputError, run_plainly
from tests.gpu.checks import CHECKS
from tests.gpu.report import write_report
from tests.gpu.runner import run_checks


def main(argv: list[str]) -> int:
    options = _options(argv)
    out = Path(options.out).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT {out}: can't be written to: {error}") from error
    device = _device(options.device)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the checks end, too
    start = time.monotonic()
    deadline = start + 60 * (options.minutes or (15 if device == "cuda" else 60))
    results = run_checks([CHECKS[name] for name in options.only], device, _data(out), out, deadline)
    write_report(results, device, out, time.monotonic() - start)
    failed = [result.check.name for result in results if not result.passed]
    print(f"\nfailed: {', '.join(failed)}; see {out}/<name>/log.txt" if failed else f"\nall passed; see {out}/gpu.md")
    return 1 if failed else 0


def _options(argv: list[str]) -> argparse.Namespace:
    names = "\n".join(f"  {check.name:20} {check.claim}" for check in CHECKS.values())
    parser = argparse.ArgumentParser(
        "tests/gpu.sh", description=f"{__doc__}\nChecks:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"), help="where to run (default: %(default)s)")
    add("--only", nargs="+", default=[*CHECKS], choices=[*CHECKS], metavar="NAME", help="checks to run (default: all)")
    add("--minutes", type=float, default=0, help="none starts later [minutes]; 0 = 15 with cuda, 60 with cpu")
    add("out", nargs="?", default="gpu-checks", help="folder of the results (default: %(default)s)")
    return parser.parse_args(argv)


def _device(wish: str) -> str:
    import torch  # after --help, which needs none of it

    if wish == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; --device cpu runs what a CPU can check")
    return wish


def _data(out: Path) -> Path:
    """faces-mini, or drawn faces in its layout."""
    if shared := os.environ.get("FR_SHARED_DATA"):
        data = Path(shared, "faces-mini")
        if not data.is_dir():
            raise InputError(f"FR_SHARED_DATA {shared}: there is no folder faces-mini in it")
        return data.resolve()
    from tools.make_sample_data import Options, make_sample_data

    make_sample_data(out / "data", Options())
    return out / "data"


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # to a file, too: results appear as they come
    run_plainly("tests/gpu.sh", main)
