"""Sample data with a fault of every kind that tools/check_dataset.py looks for."""

import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tools.make_sample_data import lfw_name


class Planted:
    """A copy of sample data. Images are called by identity and number: "1/2" is n000001/0002_01.jpg."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.data = folder / "data"
        shutil.copytree(source, self.data)
        self._table = self.data / "vggface2/bb_landmark/loose_landmark_train.csv"
        self._list = self.data / "vggface2/meta/train_list.txt"
        self.meta = self.data / "vggface2/meta/identity_meta.csv"
        self.names = self._list.read_text().split()
        header, *rows = self._table.read_text().splitlines()
        self._rows = dict(row.split(",", 1) for row in rows)
        self._header = header

    def name(self, short: str) -> str:
        identity, number = map(int, short.split("/"))
        return f"n{identity:06}/{number:04}_01.jpg"

    def path(self, short: str) -> Path:
        return self.data / "vggface2/train" / self.name(short)

    def landmarks(self, short: str) -> np.ndarray:
        return np.array(self._rows[self._key(short)].split(","), dtype=float).reshape(5, 2)

    def set_landmarks(self, short: str, points: np.ndarray) -> None:
        self._rows[self._key(short)] = ",".join(map(str, points.ravel()))

    def copy(self, source: str, target: str, scale: float = 1, cut: int = 0) -> None:
        """Copy an image as it is, or resized or cropped and encoded again."""
        if scale == 1 and not cut:
            shutil.copy(self.path(source), self.path(target))
        else:
            with Image.open(self.path(source)) as image:
                box = cut, cut, image.width - cut, image.height - cut
                side = round((image.width - 2 * cut) * scale)
                image.resize((side, side), Image.Resampling.LANCZOS, box).save(self.path(target), quality=75)
        self.set_landmarks(target, (self.landmarks(source) - cut + 0.5) * scale - 0.5)

    def unlist(self, *shorts: str) -> None:
        self.names = [name for name in self.names if name not in map(self.name, shorts)]

    def write(self) -> None:
        self._list.write_text("".join(f"{name}\n" for name in self.names))
        self._table.write_text("\n".join([self._header, *map(",".join, self._rows.items())]) + "\n")

    def _key(self, short: str) -> str:
        return '"' + self.name(short).removesuffix(".jpg") + '"'


def spoil(planted: Planted) -> None:
    """Plant what EXPECTED says."""
    planted.path("1/2").write_bytes(b"")
    planted.path("2/3").unlink()
    planted.path("2/4").write_bytes(planted.path("2/4").read_bytes()[:1500])

    planted.set_landmarks("3/1", planted.landmarks("3/1")[[1, 0, 2, 3, 4]])
    planted.set_landmarks("3/2", planted.landmarks("3/2") * [1, -1] + [0, 159])
    planted.copy("3/3", "3/8")  # what stays is the copy with the right landmarks
    planted.set_landmarks("3/3", planted.landmarks("3/3") + np.array([[0, 0], [0, 0], [70, 0], [0, 0], [0, 0]]))
    third = np.sort(planted.landmarks("3/4")[:, 0])[2]
    planted.set_landmarks("3/4", planted.landmarks("3/4") - np.array([third + 2, 0]))

    planted.copy("4/1", "4/1", scale=0.2)
    Image.open(planted.path("4/2")).convert("L").save(planted.path("4/2"), quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(planted.path("4/3")).save(planted.path("4/3"), quality=90, exif=exif)

    planted.copy("5/1", "5/8")
    planted.copy("5/2", "6/1")
    planted.copy("5/2", "5/3", scale=0.8)  # of one file under two identities another copy goes, too
    planted.copy("7/1", "7/8", scale=0.7)
    planted.copy("7/2", "8/1", cut=6)
    planted.unlist(*(f"9/{number}" for number in range(2, 9)))
    called = lfw_name(7).replace("o", "ö").replace("_", " ").upper()
    meta = re.sub(r'(n000010, )"\w+"', rf'\1"{called}"', planted.meta.read_text())
    planted.meta.write_text(meta)


CUT_OFF = "can't be decoded whole: cut off, damaged, or of an unknown format"
# Kind, image or identity, detail (but for how far landmarks are off), what it repeats.
EXPECTED = {
    ("unusable", "1/2", "can't be decoded: it is empty", ""),
    ("unusable", "2/3", "can't be read: No such file or directory", ""),
    ("unusable", "2/4", CUT_OFF, ""),
    ("landmarks", "3/1", "left and right are exchanged; unlike a face", ""),
    ("landmarks", "3/2", "left and right are exchanged; the eyes are below the mouth; unlike a face", ""),
    ("landmarks", "3/3", "unlike a face", ""),
    ("landmarks", "3/4", "outside the image: 3 of 5", ""),
    ("small_face", "4/1", "16 pixels", ""),
    ("greyscale", "4/2", "", ""),
    ("turned", "4/3", "", ""),
    ("duplicate", "3/3", "", "3/8"),
    ("duplicate", "5/8", "", "5/1"),
    ("duplicate_across", "5/2", "also under n000006", "6/1"),
    ("duplicate_across", "6/1", "also under n000005", "5/2"),
    ("near_duplicate", "5/3", "", "5/2"),
    ("near_duplicate_across", "5/3", "also under n000006", "6/1"),
    ("near_duplicate", "7/8", "", "7/1"),
    ("near_duplicate_across", "7/2", "also under n000008", "8/1"),
    ("near_duplicate_across", "8/1", "also under n000007", "7/2"),
    ("few_images", "n000009", "1 of 1 stay", ""),
    ("in_verification", "n000010", lfw_name(7), ""),
}
