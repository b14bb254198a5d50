"""The face detector on real images: where it finds landmarks, on either side, turned, large and small."""

import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fr.alignment import Array, procrustes, template_points
from fr.errors import InputError
from fr.files.images import Pixels, StoredImage
from fr.options.detection import DetectorSettings
from fr.recognition import detection
from fr.recognition.detection import DetectedFaces, Detector, Mtcnn, choose, detect_stored
from tests.conftest import vgg_faces

CPU = torch.device("cpu")
COUNT = 12
OTHER_SIDE = [1, 0, 2, 4, 3]


@pytest.fixture(scope="module")
def detector() -> Detector:
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch isn't installed: bash init_venv.sh --with detect")
    return Mtcnn(DetectorSettings(), CPU)


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> tuple[list[Pixels], Array]:
    """Real ones of 12 people, and their published landmarks [12, 5, 2]."""
    faces = vgg_faces(shared_data / "faces-mini")
    rows = np.unique(faces.labels, return_index=True)[1][: 12 * COUNT : COUNT]
    return [np.array(Image.open(faces.path(row)).convert("RGB")) for row in rows], faces.landmarks[rows]


@pytest.fixture(scope="module")
def found(detector: Detector, photographs: tuple[list[Pixels], Array]) -> Array:
    """The landmarks of the face in the middle of each, [12, 5, 2]."""
    return np.stack([middle(detector(pixels), pixels) for pixels in photographs[0]])


def middle(faces: DetectedFaces, pixels: Pixels) -> Array:
    points: Array = faces.points[choose(faces, pixels, "center")]
    return points


def test_landmarks_are_near_the_published_ones(found: Array, photographs: tuple[list[Pixels], Array]) -> None:
    assert np.linalg.norm(found - photographs[1], axis=2).mean() < 2.5  # pixels; eyes are 40 apart


def test_a_mirrored_photograph_has_mirrored_landmarks(
    detector: Detector, found: Array, photographs: tuple[list[Pixels], Array]
) -> None:
    beside = []
    for points, pixels in zip(found, photographs[0], strict=True):
        mirrored = np.ascontiguousarray(pixels[:, ::-1])
        again = middle(detector(mirrored), mirrored)[OTHER_SIDE]
        again[:, 0] = pixels.shape[1] - 1 - again[:, 0]
        beside.append(points - again)
    # A detector that puts all points d pixels to one side differs by 2d here. Single images spread by 0.9 pixels,
    # the mean of twelve by 0.25.
    assert abs(np.mean(beside, axis=(0, 1))[0]) < 0.75


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_face_aligns_from_the_pixels_as_stored_however_they_are_turned(
    detector: Detector, photographs: tuple[list[Pixels], Array], orientation: int
) -> None:
    plain = photographs[0][0]
    stored = next(  # what a viewer turns into the plain image
        pixels
        for side in (plain, plain[:, ::-1])
        for quarter in range(4)
        if np.array_equal(StoredImage(pixels := np.rot90(side, quarter), orientation).upright(), plain)
    )
    photograph = StoredImage(np.ascontiguousarray(stored), orientation)
    crops = []
    for one in (photograph, StoredImage(plain, 1)):
        faces = detect_stored(detector, one)
        box, points = faces.boxes[0], faces.points[0]
        assert ((points > box[:2]) & (points < box[:2] + box[2:])).all()
        (matrix,) = procrustes(points[None], template_points("arcface", (112, 112)))
        crops.append(cv2.warpAffine(one.stored, matrix, (112, 112)).astype(float))
    expected = crops[1][:, ::-1] if photograph.mirrored else crops[1]
    # The template's sides differ by half a pixel, so a mirrored face isn't at its mirrored place exactly.
    assert np.abs(crops[0] - expected).mean() < (8 if photograph.mirrored else 0.1)


def test_a_large_photograph_is_looked_at_scaled_down(photographs: tuple[list[Pixels], Array], found: Array) -> None:
    pixels = photographs[0][0]
    large = pixels.repeat(4, axis=0).repeat(4, axis=1)
    points = middle(Mtcnn(DetectorSettings(max_side=250), CPU)(large), large)
    np.testing.assert_allclose(points, (found[0] + 0.5) * 4 - 0.5, atol=1e-3)  # scaled down they are the same pixels


def test_a_smaller_face_than_asked_for_is_not_looked_for(photographs: tuple[list[Pixels], Array]) -> None:
    small = np.asarray(Image.fromarray(photographs[0][0]).reduce(3))  # a face of 30 pixels
    assert [len(Mtcnn(DetectorSettings(min_face=side), CPU)(small)) for side in (20, 80)] == [1, 0]


def test_thresholds_say_how_certain_a_face_must_be(detector: Detector) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (200, 200, 3)), (0, 0), 4)
    blobs = np.clip((noise - 127) * 12 + 127, 0, 255).astype(np.uint8)
    lax = Mtcnn(DetectorSettings(thresholds=(0.3, 0.01, 0.01)), CPU)(blobs)
    assert len(lax) > len(detector(blobs))
    assert (lax.scores > 0.01).all()


@pytest.mark.parametrize("size", [(1, 1), (13, 13), (19, 300), (20, 20), (40, 6000)])
def test_a_picture_without_room_for_a_face_has_none(detector: Detector, size: tuple[int, int]) -> None:
    faces = detector(np.zeros((*size, 3), dtype=np.uint8))
    assert (faces.boxes.shape, faces.points.shape, faces.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_which_face_is_meant() -> None:
    boxes = np.array([[0, 0, 60, 60], [70, 70, 50, 40], [180, 90, 20, 20]], dtype=float)
    faces = DetectedFaces(boxes, np.zeros((3, 5, 2)), np.array([0.8, 0.9, 0.99]))
    pixels = np.zeros((180, 200, 3), dtype=np.uint8)
    assert [choose(faces, pixels, choice) for choice in ("largest", "center", "certain")] == [0, 1, 2]


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("facenet_pytorch", "facenet_pytorch.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^the face detector isn't installed: bash init_venv\.sh --with detect$"):
        Mtcnn(DetectorSettings(), CPU)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_weights_that_run_something_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, mark = tmp_path / "pnet.pt", tmp_path / "mark"
    torch.save({"weight": Hostile(mark)}, file)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(pickle.UnpicklingError):
        detection._network(lambda pretrained: nn.Linear(1, 1), file, CPU)
    assert not mark.exists()
