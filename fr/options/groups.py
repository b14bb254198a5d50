"""Options of error rates by group, shared by train.py and evaluate_lfw.py."""

from dataclasses import dataclass

from fr.options.fields import OptionFields, option
from fr.options.types import FRACTION, checked

_THRESHOLD = checked(
    lambda text: text if text == "auto" else float(text), "auto or a distance >= 0", lambda x: x == "auto" or x >= 0
)
_TABLE = "CSV of identities and their groups, or a folder with a folder of identities for each group"


@dataclass(frozen=True)
class GroupSettings(OptionFields):
    """Table of groups, and threshold and pairs of their error rates."""

    groups: str = option("", str, f"error rates by group: {_TABLE}, see docs/evaluation.md; empty = none")
    groups_columns: str = option(
        "", str, "columns of --groups, separated by commas [names]; empty = group, gender, … or its only one"
    )
    groups_pairs: str = option(
        "own", choices=("own", "all"), help="own = the set's pairs, all = all pairs of its images with a group"
    )
    groups_fmr: float = option(0.01, FRACTION, "false match rate over all groups at the threshold [fraction]")
    groups_threshold: str | float = option("auto", _THRESHOLD, "threshold [distance]; auto = that of --groups_fmr")
