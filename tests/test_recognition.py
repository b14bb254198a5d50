"""Faces of images in memory: the same embeddings as those of the same images' files, in any company."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fr.data.faces import Faces
from fr.data.pairs.lfw import read_lfw
from fr.data.pipeline import DaliSettings
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation.all_pairs import Rows
from fr.evaluation.embedding import embed
from fr.files.data_root import DataRoot
from fr.files.images import Pixels, decode
from fr.onnx.model import OnnxModel
from fr.preprocessing import Preprocessing
from fr.recognition.detection import DetectedFaces
from fr.recognition.gallery import normalised_rows
from fr.recognition.recognizer import Recognizer

CPU = torch.device("cpu")
DALI = DaliSettings("cpu", None, 1)
CONTRACT = Preprocessing((112, 112), "arcface", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
COUNT = 7


@pytest.fixture(scope="module")
def faces(shared_data: Path) -> Faces:
    base = shared_data / "faces-mini/lfw"
    every = read_lfw(DataRoot(base / "lfw"), str(base / "pairs.txt"), str(base / "lfw_landmark.txt"))
    return Faces(every.root, every.names[:COUNT], every.landmarks[:COUNT])


@pytest.fixture(scope="module")
def network(shared_data: Path) -> OnnxModel:
    return OnnxModel(shared_data / "models/mobilefacenet.onnx", CPU)


@pytest.fixture(scope="module")
def pictures(faces: Faces) -> list[Pixels]:
    return [decode(faces.read(row), faces.path(row)).upright() for row in range(COUNT)]


@pytest.fixture
def expected(faces: Faces, network: OnnxModel, one_rank: None) -> Rows:
    return normalised_rows(embed(network, faces, CONTRACT, DALI, Ranks(0, 1, 0, 1, CPU), 20))


def with_points(points: np.ndarray) -> DetectedFaces:
    """points: [F, 5, 2]."""
    return DetectedFaces(np.zeros((len(points), 4)), points, np.ones(len(points)))


def test_faces_in_memory_have_the_embeddings_of_those_in_files(
    faces: Faces, network: OnnxModel, pictures: list[Pixels], expected: Rows
) -> None:
    recognizer = Recognizer(network, CONTRACT, DALI, CPU, most=3)
    found = [with_points(faces.landmarks[row : row + 1]) for row in range(COUNT)]
    together = np.concatenate(recognizer(pictures, found))
    one_by_one = np.concatenate([recognizer([picture], [one])[0] for picture, one in zip(pictures, found, strict=True)])
    # To the bit but for the network, which may add up in another order when it is given other company.
    np.testing.assert_allclose(together, expected, atol=1e-6)
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)


def test_several_faces_of_a_picture_and_none(
    faces: Faces, network: OnnxModel, pictures: list[Pixels], expected: Rows
) -> None:
    both = np.concatenate(pictures[:2], axis=1)  # side by side
    points = faces.landmarks[:2] + np.array([[[0, 0]], [[pictures[0].shape[1], 0]]])
    recognizer = Recognizer(network, CONTRACT, DALI, CPU, most=20)
    found = [with_points(at) for at in (points, points[:0], faces.landmarks[3:4])]
    rows = recognizer([both, pictures[2], pictures[3]], found)
    assert [len(of) for of in rows] == [2, 0, 1]
    cosines = (np.concatenate(rows) * expected[[0, 1, 3]]).sum(axis=1)
    assert (cosines > 0.99).all()  # what lies beside the face is another thing than black
    assert [len(of) for of in recognizer([pictures[2]], [with_points(points[:0])])] == [0]


def test_embeddings_that_are_not_finite_are_refused(faces: Faces, pictures: list[Pixels]) -> None:
    recognizer = Recognizer(lambda images: images.flatten(1) * float("nan"), CONTRACT, DALI, CPU, most=1)
    with pytest.raises(InputError, match=r"^the network gives embeddings that aren't finite$"):
        recognizer(pictures[:1], [with_points(faces.landmarks[:1])])
