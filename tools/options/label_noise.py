"""Options of tools/label_noise.py."""

from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.parsing import Resolved
from fr.options.types import DEGREES, TEXT
from tools.options.features import embedding_options


def options(argv: list[str]) -> Resolved:
    return tool_options("tools/label_noise.py", "List wrongly labelled images.", _own, argv, with_model=True)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--out", type=TEXT, help="folder for label_noise.csv and the cleaned list")
    add("--min_angle", type=DEGREES, default=75.0, help="lowest angle to the dominant centre [degrees]")
    add("--identities", default="", help="names of the head's classes, one per line; empty = from --snap")
    embedding_options(group)
