"""Options of tools/find_overlap.py."""

from fr.files.names import model_file
from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.parsing import Resolved
from fr.options.types import BELOW_1, COUNT_OR_0, FLAG, FRACTION, TEXT
from tools.options.features import bad_images_option


def options(argv: list[str]) -> Resolved:
    what = "Find the people of a verification set who are in the training set, by their faces."
    return tool_options("tools/find_overlap.py", what, _own, argv, with_model=True, with_sets=True)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--out", type=TEXT, help="folder for overlap.csv and the page")
    chance = "share of the people outside the training set who may be listed; it determines the threshold"
    add("--false_share", type=FRACTION, default=0.01, help=chance)
    add("--threshold", type=BELOW_1, default=0.0, help="list people above this cosine; 0 = by --false_share")
    add("--score", type=model_file, default="", help="model whose scores are compared; empty = --snap")
    add("--bootstrap", type=COUNT_OR_0, default=1000, help="bootstrap replicates [count]; 0 = none")
    add("--thumbnails", type=COUNT_OR_0, default=24, help="people of each kind on the page [count]; 0 = none")
    add("--cache", **FLAG, help="cache the set's embeddings beside the model and reuse them; false = off")
    bad_images_option(group)
