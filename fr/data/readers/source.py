"""Location of training data, and what a file of this folder says of each of its formats."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fr.data.faces import LabelledFaces
from fr.data.landmark_csv import landmark_table
from fr.files.data_root import DataRoot


@dataclass(frozen=True)
class Source:
    """Location of the training data as options give it; "" = not given. aligned: the images are aligned crops.

    root: a folder, or the URL of one. cache, cache_bytes: folder of the local copies of what is below a URL, "auto" =
    the user's, and how much may be in it.
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
    """Reader of a format, and the files whose sizes and times tell whether its data changed.

    inputs: raises InputError when they can't be found; a text says itself in which state the data are. None: a tree of
    images, where a file may come or go anywhere; it is walked at every start, and only the ranks of one run share the
    result.
    """

    read: Callable[[Source], LabelledFaces]
    inputs: Callable[[Source], list[Path] | str] | None


def text_files(source: Source) -> list[Path]:
    """Inputs of a format whose facts are all in its list, landmark table and identity meta file."""
    listed = Path(source.list_file)
    table = [landmark_table(Path(source.landmarks), listed)] if source.landmarks else []
    return [listed, *table, *([Path(source.meta)] if source.meta else [])]
