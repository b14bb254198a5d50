#!/usr/bin/env python3
"""Plot ROC or DET curves of several models, from the files that evaluate_lfw.py --roc_fname writes.

    python tools/plot_roc.py mobilenet.txt iresnet50.txt --out roc.png
    python tools/plot_roc.py a.txt b.txt --names "before" "after" --out det.png --det

A file has one line `TPR FPR` per point, as face_recognition.pytorch's. The area under each curve (trapezoids) is
printed and shown in the legend. With the columns of --roc_band the curve gets a band, the 95 % interval of the TPR at
each FPR. Results of MegaFace's devkit, cmc_facescrub_megaface_*.json, are taken, too; their rank-1 is printed.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/plot_roc.py", "tools.options.plot_roc:options")

import json
from pathlib import Path

import numpy as np

from fr.errors import InputError, run_plainly
from fr.evaluation.roc import Roc, area
from fr.files.durable import write_result
from fr.files.untrusted import read_text
from fr.report.plots import det_plot, png, roc_overlay
from tools.options.plot_roc import options as read_options

_MOST_BYTES = 1 << 30  # of a result in JSON


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    names = arguments.names or [path.stem for path in arguments.curves]
    if len(names) != len(arguments.curves) or len({*names}) < len(names):
        raise InputError(f"--names: give {len(arguments.curves)} different names, not {', '.join(names)}")
    curves, notes = {}, []
    for name, path in zip(names, arguments.curves, strict=True):
        curves[name], note = read_megaface(path) if path.suffix == ".json" else (read_curve(path), "")
        notes.append(f"{name}: AUC {float(area(curves[name].far, curves[name].tar)):.4f}{note}")
    print("\n".join(notes))
    write_result(arguments.out, png((det_plot if arguments.det else roc_overlay)(curves)))
    print(f"wrote {arguments.out}")
    return 0


def read_curve(path: Path) -> Roc:
    """Read a curve and add (0, 0) and (1, 1); thresholds are NaN. InputError names an invalid line."""
    points: dict[tuple[float, float], tuple[float, float]] = {}  # FPR and TPR → ends of the TPR's interval
    widths = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            tar, far, *ends = map(float, line.split())
        except ValueError:
            raise InputError(f"{path}:{number}: expected TPR and FPR, two numbers") from None
        if not (0 <= tar <= 1 and 0 <= far <= 1):
            raise InputError(f"{path}:{number}: TPR and FPR are shares, from 0 to 1")
        low, high = ends if len(ends) == 2 else (np.nan, np.nan)
        if len(ends) not in (0, 2) or low > tar or tar > high:
            raise InputError(f"{path}:{number}: expected TPR and FPR, and optionally the ends of TPR's interval")
        points[far, tar] = low, high
        widths.add(len(ends))
    if len(widths) > 1:
        raise InputError(f"{path}: some lines have an interval, and some have none")
    return _curve(path, points, widths == {2})


def read_megaface(path: Path) -> tuple[Roc, str]:
    """Read a result of MegaFace's run_experiment.py: its ROC curve, as by `read_curve`, and a line with its rank-1.

    Its `roc` is two lists, FPR and TPR; its `cmc` is two, ranks from 0 and identification rates.
    """
    try:
        match json.loads(read_text(path, _MOST_BYTES)):
            case {"roc": [[*far], [*tar]], "cmc": [[0, *_], [rate, *_]]} if len(far) == len(tar):
                shares = np.array([far, tar], dtype=np.float64)
                if ((shares >= 0) & (shares <= 1)).all() and 0 <= rate <= 1:
                    points = dict.fromkeys(zip(*shares.tolist(), strict=True), (np.nan, np.nan))
                    return _curve(path, points, False), f", rank-1 {rate:.4f}"
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: no JSON of MegaFace's devkit: {str(error)[:80]}") from error
    raise InputError(f"{path}: no result of MegaFace's devkit: expected `roc` and `cmc`, two lists of shares each")


def _curve(path: Path, points: dict[tuple[float, float], tuple[float, float]], banded: bool) -> Roc:
    """Curve through (FPR, TPR), (0, 0) and (1, 1). points: with the ends of the TPR's interval."""
    if not points:
        raise InputError(f"{path}: no points")
    for end in ((0.0, 0.0), (1.0, 1.0)):
        points.setdefault(end, (np.nan, np.nan))
    ordered = sorted(points)
    far, tar = np.array(ordered).T
    if (np.diff(tar) < 0).any():
        raise InputError(f"{path}: no ROC curve: with a higher FPR a lower TPR")
    band = np.array([points[point] for point in ordered]).T if banded else None
    return Roc(far, tar, np.full(len(far), np.nan), band)


if __name__ == "__main__":
    run_plainly("tools/plot_roc.py", main)
