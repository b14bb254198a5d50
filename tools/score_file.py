#!/usr/bin/env python3
"""Compute metrics of any matcher from its scores: accuracy over folds, AUC, EER and TAR at fixed FARs.

    python tools/score_file.py scores.csv
    python tools/score_file.py distances.txt --distance --json figures.json --report report/

The file has one line per pair: `label score`, label 1 for one person and 0 for two, separated by commas, tabs,
semicolons or spaces. A header may name its columns (label, score, first, second, fold; others aren't read). Without
folds, tenths of the same and of the different pairs are used. first and second name the two people, or the two images:
with them the bootstrap resamples people, without them pairs. With millions of pairs use --bootstrap 0. The metrics are
those of evaluate_lfw.py.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/score_file.py", "tools.options.score_file:options")

from fr.console import counted
from fr.data.pairs.score_list import read_scores
from fr.errors import run_plainly
from fr.evaluation.bands import banded_curve
from fr.evaluation.pair_statistics import PairResult
from fr.evaluation.people import people_of_names
from fr.evaluation.roc import write_curve
from fr.evaluation.verification import verify
from fr.files.durable import write_json
from fr.files.outputs import check_outputs
from fr.report.plots import SCORE_NAMES
from fr.report.verification_report import write_report
from tools.options.score_file import options as read_options

_UNNAMED = "no names of people or images: pairs are taken for independent, which makes intervals too narrow"


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    check_outputs([arguments.json, arguments.roc_fname], [arguments.report])
    listed = read_scores(arguments.scores)
    scores, same = (-listed.scores if arguments.distance else listed.scores), listed.same
    verification = verify(scores, same, listed.fold, "distance" if arguments.distance else "similarity")
    named = listed.names is not None
    people = people_of_names(listed.names, listed.pairs, same) if named else None
    result = PairResult.of(scores, same, verification, people, arguments.bootstrap)
    if arguments.json:  # written before anything is printed, since printing to a closed pipe may fail
        write_json(arguments.json, result.figures)
    print(f"{arguments.scores}: {counted(same.size, 'pair')} ({same.sum():,} same)", flush=True)
    print("\n".join(result.lines), flush=True)
    if not named and arguments.bootstrap:
        print(f"note: {_UNNAMED}", flush=True)
    if arguments.report:
        facts = {
            "file": str(arguments.scores),
            "score": SCORE_NAMES[verification.dist],
            "pairs": f"{same.size:,}",
            **({} if named or not arguments.bootstrap else {"intervals": _UNNAMED}),
        }
        page = write_report(
            arguments.report,
            verification,
            scores,
            same,
            facts,
            arguments.scores.name,
            statistics=result.statistics,
            curve=banded_curve(scores, same, result.people, arguments.bootstrap),
        )
        print(f"report: {page}")
    if arguments.roc_fname:
        count = arguments.bootstrap * arguments.roc_band
        write_curve(arguments.roc_fname, "", banded_curve(scores, same, result.people, count))
    return 0


if __name__ == "__main__":
    run_plainly("tools/score_file.py", main)
