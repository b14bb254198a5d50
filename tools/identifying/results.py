"""Outputs of identification: console, faces.jsonl, annotated images or a video, a window."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from fr.console import counted
from fr.errors import InputError, os_error_as
from fr.files.durable import write_result
from fr.files.images import Pixels, image_file
from tools.identifying.drawing import annotated
from tools.identifying.sources import Shot, Source

JOURNAL = "faces.jsonl"
_QUALITY = 95  # of JPEG
_ESCAPE = 27


@dataclass(frozen=True)
class Seen:
    """F faces of a shot.

    boxes: [F, 4] x, y, width, height, in pixels of the upright image. nearest: most similar person of the gallery for
    each face. distances: [F] 1 - cosine to that person. named: [F], True if the distance is below the threshold.
    """

    shot: Shot
    boxes: NDArray[np.float64]
    nearest: list[str]
    distances: NDArray[np.float64]
    named: NDArray[np.bool_]

    @property
    def names(self) -> list[str]:
        return [name if is_named else "unknown" for name, is_named in zip(self.nearest, self.named, strict=True)]

    @cached_property
    def picture(self) -> Pixels:
        """Image with boxes and names."""
        labels = [f"{name}, distance {distance:.2f}" for name, distance in zip(self.names, self.distances, strict=True)]
        return annotated(self.shot.pixels, self.boxes, labels, self.named.tolist())


class Sink(Protocol):
    """Output. take: writes a shot, returns False to stop. close: complete is False after an error."""

    def take(self, seen: Seen) -> bool: ...

    def close(self, complete: bool) -> None: ...


class Console:
    """Console lines: one per image, or whenever the people in the frames change; then a summary."""

    def __init__(self, frames: bool) -> None:
        self._frames, self._last = frames, ""
        self._shots, self._faceless, self._faces, self._named = 0, 0, 0, 0

    def take(self, seen: Seen) -> bool:
        self._shots += 1
        self._faceless += not seen.names
        self._faces += len(seen.named)
        self._named += int(seen.named.sum())
        if self._frames:
            line = ", ".join(sorted(seen.names)) or "nobody"
            if line != self._last:
                tqdm.write(f"{seen.shot.seconds:.2f} s: {line}")
            self._last = line
        else:
            faces = [f"{name} (distance {d:.2f})" for name, d in zip(seen.names, seen.distances, strict=True)]
            tqdm.write(f"{seen.shot.name}: {', '.join(faces) or 'no face'}")
        return True

    def close(self, complete: bool) -> None:
        shots = counted(self._shots, "frame" if self._frames else "image")
        faces = f"{counted(self._faces, 'face')}, {self._faces - self._named:,} unknown"
        print(f"{shots}, {self._faceless:,} without a face; {faces}")


class Journal:
    """faces.jsonl with one line per shot, flushed at once."""

    def __init__(self, folder: Path, frames: bool) -> None:
        self._path, self._frames = folder / JOURNAL, frames
        self._file: TextIO | None = None
        with os_error_as(f"--out {folder}: can't be written"):
            folder.mkdir(parents=True, exist_ok=True)

    def take(self, seen: Seen) -> bool:
        shot = seen.shot
        record: dict[str, Any] = {"picture": shot.name}
        if self._frames:
            record = {"frame": int(shot.name), "seconds": round(shot.seconds, 3)}
        record["faces"] = [
            {
                "name": name if is_named else None,
                "nearest": name,
                "distance": round(distance, 4),
                "box": [round(side, 1) for side in box],
            }
            for name, is_named, distance, box in zip(
                seen.nearest, seen.named.tolist(), seen.distances.tolist(), seen.boxes.tolist(), strict=True
            )
        ]
        with os_error_as(f"{self._path}: can't be written"):
            self._file = self._file or self._path.open("w", encoding="utf-8")
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        return True

    def close(self, complete: bool) -> None:
        if self._file:
            self._file.close()


class ImageFiles:
    """Annotated images under their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, seen: Seen) -> bool:
        path = self._folder / seen.shot.name
        form = Image.registered_extensions()[path.suffix.lower()]
        write_result(path, image_file(Image.fromarray(seen.picture), form, quality=_QUALITY))
        return True

    def close(self, complete: bool) -> None: ...


class VideoFile:
    """Annotated frames as MPEG-4; the file is complete unless an error occurs."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        self._writer: Any = None
        self._written = 0

    def take(self, seen: Seen) -> bool:
        picture = seen.picture
        if self._writer is None:
            size = picture.shape[1], picture.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, code, self._rate, size)
            if not self._writer.isOpened():
                raise InputError(f"{self._path}: can't be written")
        # A camera's frame is repeated until the next one was processed, so that the video keeps real time.
        due = round(seen.shot.seconds * self._rate) + 1
        for _ in range(due - self._written):
            self._writer.write(picture[:, :, ::-1])
        self._written = max(due, self._written)
        return True

    def close(self, complete: bool) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if complete:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)


class Window:
    """Window with annotated shots. An image is shown until a key is pressed; q or Escape ends the run.

    InputError if no window can be opened.
    """

    def __init__(self, frames: bool) -> None:
        self._wait = 1 if frames else 0  # milliseconds; 0 = for a key
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise InputError("--show: no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            wheel = "pip install opencv-python in the place of opencv-python-headless"
            raise InputError(f"--show: this OpenCV has no windows: {wheel}") from error

    def take(self, seen: Seen) -> bool:
        cv2.imshow(_TITLE, seen.picture[:, :, ::-1])
        return cv2.waitKey(self._wait) & 0xFF not in (ord("q"), _ESCAPE)

    def close(self, complete: bool) -> None:
        cv2.destroyAllWindows()


_TITLE = "identify"


def open_sinks(source: Source, out: Path | None, show: bool) -> list[Sink]:
    """Open the outputs. out: folder to write to, None = none."""
    frames = source.rate > 0
    sinks: list[Sink] = [Window(frames)] if show else []
    if out:
        sinks.append(Journal(out, frames))
        sinks.append(VideoFile(out / f"{source.name}.mp4", source.rate) if frames else ImageFiles(out))
    return [*sinks, Console(frames)]
