"""Where the faces in a photograph are: boxes, five landmarks and scores.

The detector is MTCNN (arXiv:1604.02878) as the package facenet-pytorch carries it, weights included.

Shapes: F faces. Places are (x, y) in pixels with (0, 0) at the centre of the first pixel. Landmarks: left eye, right
eye, nose, left and right mouth corner, as seen in the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fr.errors import InputError
from fr.files.images import Photograph, Pixels

Array = NDArray[np.float64]

_PYRAMID = 0.709  # side of each level over that of the one before: half the area, as in the paper's code
# The package takes its crops a pixel early, and cuts their corners to whole pixels without telling the landmarks: on
# average half a pixel each. A mirrored photograph shows it (tests/test_detection.py).
_SHIFT = 1.0
_OTHER_SIDE = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class DetectedFaces:
    """The faces of one photograph, in no order. A box may reach over the edge."""

    boxes: Array  # [F, 4] x, y, width, height
    points: Array  # [F, 5, 2]
    scores: Array  # [F] 0 … 1

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Finds the faces in an upright photograph [H, W, 3] RGB."""

    def __call__(self, pixels: Pixels) -> DetectedFaces: ...


@dataclass(frozen=True)
class DetectorSettings:
    """min_face: side of the smallest face [pixels]. thresholds: scores that a face needs at the three stages.
    max_side: a photograph with a longer side is looked at scaled down to this [pixels], which bounds the memory."""

    min_face: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    max_side: int = 1600


class Mtcnn:
    """The `Detector`; InputError without facenet-pytorch."""

    def __init__(self, settings: DetectorSettings, device: torch.device) -> None:
        self._settings, self._device = settings, device
        try:
            from facenet_pytorch.models import mtcnn
            from facenet_pytorch.models.utils.detect_face import detect_face
        except ImportError as error:
            raise InputError("the face detector isn't installed: bash init_venv.sh --with detect") from error
        data = Path(mtcnn.__file__).parent.parent / "data"
        kinds = {"pnet": mtcnn.PNet, "rnet": mtcnn.RNet, "onet": mtcnn.ONet}
        self._networks = [_network(kind, data / f"{name}.pt", device) for name, kind in kinds.items()]
        self._detect = detect_face

    def __call__(self, pixels: Pixels) -> DetectedFaces:
        height, width = pixels.shape[:2]
        shrink = min(1.0, self._settings.max_side / max(height, width))
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        if min(size) < self._settings.min_face:  # the package fails on a pyramid without levels
            return DetectedFaces(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0))
        seen = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if shrink < 1 else pixels
        with torch.inference_mode():
            ((found,), (points,)) = self._detect(
                seen, self._settings.min_face, *self._networks, self._settings.thresholds, _PYRAMID, self._device
            )
        found, points = found.astype(np.float64), points.astype(np.float64)
        corners = found[:, :4].reshape(-1, 2, 2)
        scale = np.array([width, height]) / size
        corners, points = ((places - _SHIFT + 0.5) * scale - 0.5 for places in (corners, points))
        boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
        return DetectedFaces(boxes, points, found[:, 4])


def _network(kind: Any, weights: Path, device: torch.device) -> torch.nn.Module:
    network: torch.nn.Module = kind(pretrained=False)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(device)


def detect_stored(detector: Detector, photograph: Photograph) -> DetectedFaces:
    """The faces of a photograph held upright, at their places in the file as it is stored.

    Left and right are those of the stored picture, so that a similarity without reflection aligns it.
    """
    faces = detector(photograph.upright())
    points = photograph.stored_places(faces.points)
    low, extent = faces.boxes[:, :2], faces.boxes[:, 2:]
    corners = photograph.stored_places(np.stack([low, low + extent], axis=1))
    low = corners.min(axis=1)
    boxes = np.concatenate([low, corners.max(axis=1) - low], axis=1)
    return DetectedFaces(boxes, points[:, _OTHER_SIDE] if photograph.mirrored else points, faces.scores)


def _by_center(faces: DetectedFaces, size: Array) -> Array:
    """Area less twice the squared distance from the middle, as facenet's align_dataset_mtcnn.py weighs them."""
    off = faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - size / 2
    worth: Array = faces.boxes[:, 2:].prod(axis=1) - 2 * (off**2).sum(axis=1)
    return worth


# Which face is meant when there are several: what it is worth, [F], by the faces and the picture's (width, height).
CHOICES: dict[str, Callable[[DetectedFaces, Array], Array]] = {
    "center": _by_center,
    "largest": lambda faces, _: faces.boxes[:, 2:].prod(axis=1),
    "certain": lambda faces, _: faces.scores,
}


def choose(faces: DetectedFaces, pixels: Pixels, choice: str) -> int:
    """The one of at least one face that a picture [H, W, 3] is of; choice: key of `CHOICES`."""
    size = np.array(pixels.shape[1::-1], dtype=np.float64)
    return int(np.argmax(CHOICES[choice](faces, size)))
