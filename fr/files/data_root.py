"""Root folder of a data set, which its files must be in unless --allow_outside is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fr.errors import InputError
from fr.files import untrusted


@dataclass(frozen=True)
class DataRoot:
    """A folder that the paths of a data set start from. outside_allowed: paths and links may lead out of it."""

    path: Path
    outside_allowed: bool = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def boundary(self) -> Path | None:
        """The folder that files must be in, wherever links lead; None = they may be anywhere."""
        return None if self.outside_allowed else self.path

    def below(self, name: str) -> "DataRoot":
        """A folder in this one as a root, with the same `outside_allowed`."""
        return DataRoot(self.path / name, self.outside_allowed)

    def check_exists(self, option: str) -> None:
        """Raise InputError if there is no such folder. option: the option that gave it, for the message."""
        if not self.path.is_dir():
            raise InputError(f"{option} {self}: no such folder")

    def check_inside(self, path: Path | str) -> None:
        """Raise OutsideRoot if symbolic links of a path below the root lead out of it, unless allowed."""
        if not self.outside_allowed:
            untrusted.check_inside(path, self.path)

    def open_file(self, path: Path | str) -> BinaryIO:
        """Open a file of the data set; OSError and OutsideRoot as in `open_regular`."""
        return untrusted.open_file(path, self.boundary)

    def read_whole(self, path: Path | str, most: int) -> bytes:
        """Content of a file of the data set; OSError if it can't be read or exceeds `most` bytes, OutsideRoot."""
        return untrusted.read_whole(path, most, self.boundary)
