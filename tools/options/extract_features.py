"""Options of tools/extract_features.py."""

from fr.options.definitions import tool_options
from fr.options.fields import Group
from fr.options.names import DATASETS, UNLABELLED
from fr.options.parsing import Resolved
from fr.options.types import FLAG, TEXT
from tools.options.features import embedding_options

FORMATS = ("npy", "npz", "parquet", "bin", "trillion")
LAYERS = ("embedding", "pooled")


def options(argv: list[str]) -> Resolved:
    data = UNLABELLED | DATASETS
    what = "Extract features of images."
    return tool_options("tools/extract_features.py", what, _own, argv, datasets=data, with_model=True)


def _own(group: Group) -> None:
    add = group.add_argument
    add("--out", type=TEXT, help="folder for the features, new or from a previous run")
    one = "npz, parquet, trillion: one file with all"
    add("--format", default="npy", choices=FORMATS, help=f"npy, bin: one file per image; {one}")
    pooled = "pooled = input of the last linear layer"
    add("--layer", default="embedding", choices=LAYERS, help=f"the embedding, or {pooled}, if that is pooled")
    add("--normalize", **FLAG, help="features of norm 1; false = not normalised; default: true for bin and trillion")
    add("--flip_mode", default="sum", choices=("sum", "concat"), help="for --flipped_emb: mean or concatenation")
    embedding_options(group)
    add("--file_ending", type=TEXT, default=".bin", help="for bin: suffix of the image's name")
    lists = "megaface_noises.txt or facescrub_noises.txt, to clean the features"
    add("--noises_list", default="", help=f"for bin: {lists}; empty = none")
