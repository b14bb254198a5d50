"""Options of tools/classify.py."""

from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.parsing import Resolved
from fr.options.types import COUNT_OR_0
from tools.options.features import embedding_options


def options(argv: list[str]) -> Resolved:
    return tool_options("tools/classify.py", "Classify held-out images.", _own, argv, with_model=True)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--identities", default="", help="names of the head's classes, one per line; empty = from --snap")
    embedding_options(group)
    add("--pairs", type=COUNT_OR_0, default=10, help="most often confused identities to print [pairs]; 0 = none")
    add("--json", default="", help="file to write the metrics to; empty = none")
    add("--per_identity", default="", help="file.csv with one line per identity; empty = none")
