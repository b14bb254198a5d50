"""Options that tools/classify.py and tools/extract_features.py share."""

from fr.options.fields import Group
from fr.options.types import COUNT, COUNT_OR_0, FLAG


def embedding_options(group: Group) -> None:
    """Add the options of tools that extract features."""
    add = group.add_argument
    add("--flipped_emb", **FLAG, help="mean with the mirror image's features; false = off; default: as in --snap")
    add("--batch_size", type=COUNT, default=64, help="per rank and forward pass [images]")
    bad_images_option(group)


def bad_images_option(group: Group) -> None:
    add = group.add_argument
    add("--max_bad_images", type=COUNT_OR_0, default=1000, help="end at more bad images [files]; 0 = at the first")
