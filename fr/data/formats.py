"""--train_dataset → the reader of that format. What each needs is in `fr/option_checks.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fr.data.annotations import LabelledFaces
from fr.data.folders import read_folders
from fr.data.lists import read_imdb_face, read_labelled_list, read_ms1m, read_trillion_pairs
from fr.data.tar_shards import read_tar
from fr.data.vgg import read_vgg
from fr.errors import InputError


@dataclass(frozen=True)
class Source:
    """Where the training data are; "" = not given. aligned: the pictures are aligned crops."""

    root: str
    list_file: str
    landmarks: str
    meta: str
    aligned: bool = False


READERS: dict[str, Callable[[Source], LabelledFaces]] = {
    "vgg": lambda source: read_vgg(source.root, source.list_file, source.landmarks, source.meta),
    "folder": lambda source: read_folders(source.root, source.landmarks),
    "list": lambda source: read_labelled_list(source.root, source.list_file, source.landmarks),
    "ms1m": lambda source: read_ms1m(source.root, source.list_file),
    "imdbface": lambda source: read_imdb_face(source.root, source.list_file),
    "trp": lambda source: read_trillion_pairs(source.root, source.list_file),
    "tar": lambda source: read_tar(source.root, source.list_file, source.aligned),
}


def read_training_faces(options: Mapping[str, Any]) -> LabelledFaces:
    """The faces that train.py's options name; options: as a snapshot keeps them, older ones too.

    InputError says all that is wrong with the files.
    """
    dataset = options.get("train_dataset", "vgg")
    if dataset not in READERS:
        raise InputError(f"--train_dataset {dataset}: unknown; one of {', '.join(READERS)}")
    names = ("train_data_root", "train_list", "train_landmarks", "train_meta")
    root, list_file, landmarks, meta = (options.get(name, "") for name in names)
    return READERS[dataset](Source(root, list_file, landmarks, meta, options.get("aligned", False)))
