"""Options of tools/pack_dataset.py."""

from typing import Any

from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.parsing import Resolved
from fr.options.types import COUNT_OR_0, FLAG, JPEG_QUALITY, NOT_NEGATIVE, POSITIVE, TEXT, checked

_CROP = checked(int, "0, or a whole number >= 32", lambda x: x == 0 or x >= 32)


def options(argv: list[str]) -> Resolved:
    return tool_options("tools/pack_dataset.py", "Pack training data into tar shards.", _own, argv, _problems)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--out", type=TEXT, help="folder for the shards")
    add("--shard_size", type=POSITIVE, default=256.0, help="approximate size of a shard [MB]")
    add("--align", type=_CROP, default=0, help="side of crops around aligned faces [pixels]; 0 = pack images unchanged")
    add("--margin", type=NOT_NEGATIVE, default=0.25, help="margin around a face [fraction of its side]; 0 = none")
    add("--quality", type=JPEG_QUALITY, default=95, help="JPEG quality of the crops, full chroma [1 … 100]")
    add("--shuffle", **FLAG, help="fixed random order, for programs that read sequentially; false = off")
    add("--workers", type=COUNT_OR_0, default=0, help="number of processes [count]; 0 = one per core")


def _problems(values: dict[str, Any], origins: dict[str, str], defaults: dict[str, Any]) -> list[str]:
    idle = [name for name in ("margin", "quality") if values.get(name, defaults[name]) != defaults[name]]
    return [f"{origins[name]}: --{name}: no effect without --align" for name in idle if values.get("align") == 0]
