"""Face detection: boxes, five landmarks and scores of the faces in an image.

The detector is MTCNN (arXiv:1604.02878) from the package facenet-pytorch, weights included.

Shapes: F faces. Coordinates are (x, y) in pixels with (0, 0) at the centre of the first pixel. Landmarks: left eye,
right eye, nose, left and right mouth corner, with left and right as seen in the image.
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
from fr.files.images import Pixels, StoredImage
from fr.options.detection import DetectorSettings

Array = NDArray[np.float64]

_PYRAMID = 0.709  # scale between pyramid levels: half the area, as in the paper's code
# Correction of the landmarks [pixels]: the package crops one pixel early, and rounds crop corners down; each shifts the
# landmarks by half a pixel on average, as the comparison with a mirrored image shows (tests/test_detection.py).
_SHIFT = 1.0
_MIRRORED_ORDER = [1, 0, 2, 4, 3]


@dataclass(frozen=True)
class DetectedFaces:
    """Faces of one image, in arbitrary order. A box may extend beyond the image."""

    boxes: Array  # [F, 4] x, y, width, height
    points: Array  # [F, 5, 2]
    scores: Array  # [F] 0 … 1

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Face detector for upright images [H, W, 3] RGB."""

    def __call__(self, pixels: Pixels) -> DetectedFaces: ...


class Mtcnn:
    """MTCNN as a `Detector`; InputError if facenet-pytorch isn't installed."""

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
        scaled = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if shrink < 1 else pixels
        with torch.inference_mode():
            ((detected,), (points,)) = self._detect(
                scaled, self._settings.min_face, *self._networks, self._settings.thresholds, _PYRAMID, self._device
            )
        detected, points = detected.astype(np.float64), points.astype(np.float64)
        corners = detected[:, :4].reshape(-1, 2, 2)
        scale = np.array([width, height]) / size
        corners, points = ((places - _SHIFT + 0.5) * scale - 0.5 for places in (corners, points))
        boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
        return DetectedFaces(boxes, points, detected[:, 4])


def _network(kind: Any, weights: Path, device: torch.device) -> torch.nn.Module:
    network: torch.nn.Module = kind(pretrained=False)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(device)


def detect_stored(detector: Detector, image: StoredImage) -> DetectedFaces:
    """Detect faces in an image turned upright, with coordinates in the image as stored.

    Left and right are those of the stored image, so that a similarity without reflection aligns it.
    """
    faces = detector(image.upright())
    points = image.stored_places(faces.points)
    low, extent = faces.boxes[:, :2], faces.boxes[:, 2:]
    corners = image.stored_places(np.stack([low, low + extent], axis=1))
    low = corners.min(axis=1)
    boxes = np.concatenate([low, corners.max(axis=1) - low], axis=1)
    return DetectedFaces(boxes, points[:, _MIRRORED_ORDER] if image.mirrored else points, faces.scores)


def _by_center(faces: DetectedFaces, size: Array) -> Array:
    """Area minus twice the squared distance from the image centre, as in facenet's align_dataset_mtcnn.py."""
    offset = faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - size / 2
    weight: Array = faces.boxes[:, 2:].prod(axis=1) - 2 * (offset**2).sum(axis=1)
    return weight


# Weight [F] of each face, from the faces and the image's (width, height); the face with the highest is chosen.
_WEIGHTS: dict[str, Callable[[DetectedFaces, Array], Array]] = {
    "center": _by_center,
    "largest": lambda faces, _: faces.boxes[:, 2:].prod(axis=1),
    "certain": lambda faces, _: faces.scores,
}


def choose(faces: DetectedFaces, pixels: Pixels, choice: str) -> int:
    """Choose the main face, of at least one, of an image [H, W, 3]; choice: of `fr.options.detection.CHOICES`."""
    size = np.array(pixels.shape[1::-1], dtype=np.float64)
    return int(np.argmax(_WEIGHTS[choice](faces, size)))
