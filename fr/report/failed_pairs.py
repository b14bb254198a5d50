"""Misclassified pairs: selection, aligned images as the network gets them, and one image file per pair.

Letters: P pairs, H and W height and width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from fr.data.faces import Faces, VerificationFaces
from fr.data.pipeline import DaliSettings, plain_stream
from fr.errors import os_error_as
from fr.evaluation.verification import checked_pairs
from fr.files.durable import write_result
from fr.files.images import image_file
from fr.files.names import printable
from fr.preprocessing import Preprocessing
from fr.report.font import font

_BATCH = 16  # images
_GAP, _LINE, _FONT = 4, 14, 11  # pixels
_PAIR_FILE = re.compile(r"misclassified_\d+\.jpg")


@dataclass(frozen=True, eq=False)
class WrongPair:
    """Misclassified pair: names, score, ground truth, and two uint8 RGB images [H, W, 3]."""

    names: tuple[str, str]
    score: float
    same: bool
    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]


def wrong_pairs(scores: ArrayLike, same: ArrayLike, right: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Indices of the worst misclassified pairs.

    At most `count` false matches, highest score first, then at most `count` false non-matches, lowest score first;
    stable for equal scores. scores, same: [P]. right: [P], True if a pair is classified correctly. Raises ValueError
    as `checked_pairs`.
    """
    score, is_same = checked_pairs(scores, same)
    false_matches = np.flatnonzero(~is_same & ~right)
    false_non_matches = np.flatnonzero(is_same & ~right)
    highest = false_matches[np.argsort(-score[false_matches], kind="stable")]
    lowest = false_non_matches[np.argsort(score[false_non_matches], kind="stable")]
    return np.concatenate((highest[: max(count, 0)], lowest[: max(count, 0)]))


def load_pairs(
    faces: VerificationFaces,
    scores: NDArray[np.float64],
    chosen: NDArray[np.intp],
    preprocessing: Preprocessing,
    settings: DaliSettings,
) -> Iterator[WrongPair]:
    """Load the chosen pairs one by one, aligned as for the network."""
    pairs = faces.pairs[chosen]
    images = aligned(faces, pairs.reshape(-1), preprocessing, settings)
    for index, (first, second) in zip(chosen.tolist(), pairs.tolist(), strict=True):
        names = faces.names[first].as_py(), faces.names[second].as_py()
        yield WrongPair(names, float(scores[index]), bool(faces.same[index]), (next(images), next(images)))


def aligned(
    faces: Faces, rows: NDArray[np.int64], preprocessing: Preprocessing, settings: DaliSettings
) -> Iterator[NDArray[np.uint8]]:
    """Images of `rows`, in order and aligned as for the network: [H, W, 3] uint8 RGB."""
    plain = Preprocessing(preprocessing.input_size, preprocessing.template, preprocessing.alignment)
    for batch in plain_stream(faces, rows, _BATCH, plain, settings) if len(rows) else ():
        yield from np.round(batch.cpu().numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def write_pairs(folder: Path, pairs: Iterator[WrongPair], score_name: str) -> int:
    """Write pairs as misclassified_1.jpg … (face_recognition.pytorch's names) into `folder`; return their number.

    Those of a previous evaluation are removed first. InputError if they can't be written.
    """
    with os_error_as(f"{folder}: old images can't be removed"):
        old = [path for path in folder.glob("*.jpg") if _PAIR_FILE.fullmatch(path.name)]
        for path in old:
            path.unlink()
    count = 0
    for pair in pairs:
        count += 1
        write_result(folder / f"misclassified_{count}.jpg", _jpeg(pair, score_name))
    return count


def _jpeg(pair: WrongPair, score_name: str) -> bytes:
    """Both images side by side above a caption, which is also the file's JPEG comment."""
    verdict = "one person, classified as two" if pair.same else "two people, classified as one"
    lines = [f"{score_name} {pair.score:.4f}: {verdict}", *map(printable, pair.names)]
    height, width = pair.images[0].shape[:2]
    text_width = max(int(font(_FONT, line).getlength(line)) + 1 for line in lines)
    sheet = Image.new("RGB", (max(2 * width + _GAP, text_width), height + _GAP + _LINE * len(lines)), "white")
    for place, image in zip((0, width + _GAP), pair.images, strict=True):
        sheet.paste(Image.fromarray(image), (place, 0))
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((0, height + _GAP + _LINE * row), line, "black", font(_FONT, line))
    return image_file(sheet, "JPEG", quality=95, subsampling=0, comment="\n".join(lines).encode())
