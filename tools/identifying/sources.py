"""Inputs of identification: images, and the frames of videos and cameras."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fr.data.readers.folders import IMAGE_ENDINGS, images_below, others_note
from fr.data.storage import MOST_BYTES
from fr.errors import InputError, os_error_as
from fr.files.data_root import DataRoot
from fr.files.images import MOST_PIXELS, Pixels, decode
from fr.files.untrusted import OutsideRoot, open_file

_USUAL_RATE = 25.0  # frames per second of a camera that doesn't report its rate


@dataclass(frozen=True)
class Shot:
    """Image or frame, as a viewer shows it.

    name: path below the images' folder, or number of the frame from 0. pixels: [H, W, 3] RGB. seconds: since the first
    frame; 0 for an image.
    """

    name: str
    pixels: Pixels
    seconds: float = 0.0


@dataclass(frozen=True)
class Source:
    """Shots of an input, in order. total: their number, 0 = unknown. name: of the output video, for frames.

    root: the folder of images, or the video's file. rate: frames per second, 0 for images. bad: a message about
    files that aren't images; during iteration, filled with one about each unreadable image.
    """

    shots: Iterator[Shot]
    total: int
    name: str
    root: Path
    rate: float
    bad: list[str] = field(default_factory=list)


def open_source(text: str, allow_outside: bool) -> Source:
    """Open an image, a folder of images, a video file or a camera by number; InputError if it can't be opened.

    allow_outside: links in a folder may lead out of it.
    """
    path = Path(text)
    if text.isdecimal() and not path.exists():
        return _frames(cv2.VideoCapture(int(text)), f"camera_{text}", path, live=True)
    if path.is_dir():
        root = DataRoot(path, allow_outside)
        others: Counter[str] = Counter()
        names = images_below(root, others)
        if not names:
            raise InputError(f"--input {text}: no image in it")
        return _photographs(root, names, list(others_note(root.path, others)))
    with os_error_as(f"--input {text}: can't be read"):
        open_file(path).close()
    if path.name.lower().endswith(IMAGE_ENDINGS):
        return _photographs(DataRoot(path.parent, outside_allowed=True), [path.name], [])
    return _frames(cv2.VideoCapture(text, cv2.CAP_FFMPEG), path.stem, path, live=False)


def _photographs(root: DataRoot, names: list[str], bad: list[str]) -> Source:
    return Source(_readable(root, names, bad), len(names), "", root.path, 0.0, bad)


def _readable(root: DataRoot, names: list[str], bad: list[str]) -> Iterator[Shot]:
    for name in names:
        path = root.path / name
        try:
            encoded = root.read_whole(path, MOST_BYTES)
            yield Shot(name, decode(np.frombuffer(encoded, dtype=np.uint8), str(path)).upright())
        except OutsideRoot:
            raise
        except OSError as error:
            bad.append(f"{path}: can't be read: {error.strerror}")
        except InputError as error:
            bad.append(str(error))


def _frames(capture: Any, name: str, path: Path, live: bool) -> Source:
    """Frames of an OpenCV capture, turned upright by it. live: frames during processing are dropped."""
    height, width = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    if not capture.isOpened() or not 0 < height * width <= MOST_PIXELS:
        what = "no such camera, or it is in use" if live else "neither an image by its name nor a video to be decoded"
        raise InputError(f"--input {path}: {what}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # for a camera: process the newest frame
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate < 1000 else _USUAL_RATE
    total = 0 if live else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    return Source(_shots(capture, 0.0 if live else rate), total, name, path, rate)


def _shots(capture: Any, rate: float) -> Iterator[Shot]:
    """Yield frames. rate: frames per second, 0 = by the clock."""
    number, start = 0, time.monotonic()
    try:
        while True:
            there, frame = capture.read()
            if not there:
                return
            seconds = number / rate if rate else time.monotonic() - start
            yield Shot(str(number), np.ascontiguousarray(frame[:, :, ::-1]), seconds)
            number += 1
    finally:
        capture.release()
