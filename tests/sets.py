"""One drawn verification set in every form that sets are published in: the same images, pairs and folds."""

import pickle
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fr.alignment import procrustes, template_points
from fr.data.faces import VerificationFaces

Triple = tuple[str, str, bool]


@dataclass(frozen=True)
class Drawn:
    """Aligned crops by name (`Name/Name_0001`), and pairs of them in folds of one size."""

    crops: dict[str, bytes]
    pairs: list[Triple]
    per_fold: int

    @classmethod
    def of(cls, faces: VerificationFaces, template: str, side: int) -> "Drawn":
        """PNG, so that nothing is lost but what a byte a channel rounds off."""
        names = [name.removesuffix(".jpg") for name in faces.names.to_pylist()]
        matrices = procrustes(faces.landmarks, template_points(template, (side, side)))
        crops = {}
        for index, (name, matrix) in enumerate(zip(names, matrices, strict=True)):
            photograph = cv2.imread(faces.path(index))
            assert photograph is not None
            crops[name] = cv2.imencode(".png", cv2.warpAffine(photograph, matrix, (side, side)))[1].tobytes()
        rows = zip(faces.pairs.tolist(), faces.same.tolist(), strict=True)
        pairs = [(names[first], names[second], same) for (first, second), same in rows]
        return cls(crops, pairs, len(pairs) // (int(faces.fold.max()) + 1))

    # --- the forms, each in a folder of its own ---------------------------------------------------------------------

    def lfw(self, out: Path) -> Path:
        rows = []
        for first, second, same in self.pairs:
            (name, i), (other, j) = (of.split("/")[1].rsplit("_", 1) for of in (first, second))
            rows.append("\t".join([name, str(int(i)), *([] if same else [other]), str(int(j))]))
        self.pictures(out / "people", ".png")
        text = "\n".join([f"{len(self.pairs) // self.per_fold}\t{self.per_fold // 2}", *rows])
        return written(out / "pairs.txt", text + "\n").parent

    def pair_list(self, out: Path) -> Path:
        self.pictures(out, ".png")
        rows = (f"{first}.png {second}.png {int(same)}" for first, second, same in self.pairs)
        return written(out / "mine.txt", "\n".join(rows) + "\n")

    def annotations(self, out: Path) -> Path:
        self.pictures(out / "agedb_30_112x112", ".png")
        folder = "agedb_30_112x112"
        rows = (f"{int(same)} {folder}/{first}.png {folder}/{second}.png" for first, second, same in self.pairs)
        return written(out / "agedb_30_ann.txt", "\n".join(rows) + "\n").parent

    def calfw(self, out: Path) -> Path:
        """All same pairs in front, numbered by fold; all different ones after; images in one flat folder."""
        self.pictures(out / "aligned images", ".png", flat=True)
        folds = [(index // self.per_fold + 1, *pair) for index, pair in enumerate(self.pairs)]
        rows = [
            f"{Path(name).name}.jpg {fold if same else 0}"
            for wanted in (True, False)
            for fold, first, second, same in folds
            if same == wanted
            for name in (first, second)
        ]
        return written(out / "pairs_CALFW.txt", "\n".join(rows) + "\n").parent

    def cfp(self, out: Path) -> Path:
        """Frontal and profile images are each all of them: FP pairs and FF pairs are the same ones."""
        self.pictures(out / "Data/Images", ".png")
        names = list(self.crops)
        for letter in "FP":
            rows = (f"{number} ../Data/Images/{name}.png" for number, name in enumerate(names, start=1))
            written(out / f"Protocol/Pair_list_{letter}.txt", "\n".join(rows) + "\n")
        number = {name: str(index) for index, name in enumerate(names, start=1)}
        for fold in range(len(self.pairs) // self.per_fold):
            part = self.pairs[fold * self.per_fold :][: self.per_fold]
            for split in ("FP", "FF"):
                for file, wanted in (("same", True), ("diff", False)):
                    rows = (f"{number[first]},{number[second]}" for first, second, same in part if same == wanted)
                    written(out / f"Protocol/Split/{split}/{fold + 1:02d}/{file}.txt", "\n".join(rows) + "\n")
        return out

    def pack(self, out: Path, python2: bool = False) -> Path:
        pictures = [self.crops[name] for first, second, _ in self.pairs for name in (first, second)]
        same = [same for _, _, same in self.pairs]
        out.mkdir(parents=True, exist_ok=True)
        content = python2_pack(pictures, same) if python2 else pickle.dumps((pictures, same))
        (out / "lfw.bin").write_bytes(content)
        return out / "lfw.bin"

    def pictures(self, out: Path, ending: str, flat: bool = False) -> None:
        for name, content in self.crops.items():
            path = out / f"{Path(name).name if flat else name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def python2_pack(pictures: Iterable[bytes], same: Iterable[bool]) -> bytes:
    """Pickle as Python 2's pickle.dump writes it with its highest protocol: bytes are its text, short ones shortly."""
    strings = (
        b"U" + bytes([len(of)]) + of if len(of) < 256 else b"T" + struct.pack("<i", len(of)) + of for of in pictures
    )
    kinds = (b"\x88" if of else b"\x89" for of in same)
    return b"\x80\x02](" + b"".join(strings) + b"e](" + b"".join(kinds) + b"e\x86."


def folds_of(faces: VerificationFaces) -> list[tuple[int, bool]]:
    return sorted(zip(faces.fold.tolist(), np.asarray(faces.same).tolist(), strict=True))
