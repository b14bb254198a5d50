"""Location of training data, and the description of a format that each reader module has."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fr.data.faces import LabelledFaces
from fr.data.landmark_csv import landmark_table
from fr.files.data_root import DataRoot


@dataclass(frozen=True)
class Source:
    """Location of the training data by options; "" = not given. aligned: the images are aligned crops.

    root: a folder, or the URL of one. cache, cache_bytes: folder and size limit of the local copies of remote files;
    "auto" = in the user's cache folder.
    """

    root: str
    list_file: str
    landmarks: str
    meta: str
    aligned: bool = False
    allow_outside: bool = False
    cache: str = "auto"
    cache_bytes: int = 0

    @property
    def data_root(self) -> DataRoot:
        return DataRoot(Path(self.root), self.allow_outside)


class Format(NamedTuple):
    """Reader of a format, and the input files whose sizes and times show if its data changed.

    inputs: function that returns these files, or a text that describes the state of the data; it raises InputError if
    they can't be found. None: the format is a tree of images, in which a file may change anywhere; the tree is walked
    at every start, and only the ranks of one run share the result.
    """

    read: Callable[[Source], LabelledFaces]
    inputs: Callable[[Source], list[Path] | str] | None


def text_files(source: Source) -> list[Path]:
    """Inputs of a format that is determined by its list, landmark table and identity meta file."""
    listed = Path(source.list_file)
    table = [landmark_table(Path(source.landmarks), listed)] if source.landmarks else []
    return [listed, *table, *([Path(source.meta)] if source.meta else [])]
