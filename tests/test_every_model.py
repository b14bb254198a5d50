"""Every backbone's way: it trains, is saved, comes back bit-equal, and leaves as ONNX with the same numbers."""

from pathlib import Path

import onnx
import pytest
import torch

from fr.checkpoint import snapshot
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState
from fr.evaluation.scored_model import load_backbone
from fr.losses.classifier import MarginSoftmax
from fr.models import MODELS, build_model, family
from fr.onnx.export import Deployed, difference, embeddings_of, export_program, random_pixels, to_onnx
from fr.onnx.model import OnnxModel
from fr.options.losses import LossSettings
from fr.preprocessing import Preprocessing
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd
from tests.conftest import ROOT
from tools.export_onnx import LIMIT

CLASSES, EMBED_SIZE, ITERATIONS = 6, 16, 3
QUICK = ("mobilenet", "iresnet18")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in MODELS]


def batch_for(name: str) -> tuple[tuple[int, int], torch.Tensor, torch.Tensor]:
    """(height, width), images [CLASSES, 3, height, width] in 0…1 and their labels."""
    size = (80, 80) if family(name).input_size[0] > 128 else (48, 48)
    return size, random_pixels(CLASSES, size) / 255, torch.arange(CLASSES)


@pytest.mark.parametrize("name", EACH)
def test_a_small_step_against_the_gradient_lowers_the_loss_as_it_predicts(name: str, one_rank: None) -> None:
    size, pictures, labels = batch_for(name)
    torch.manual_seed(0)
    model = build_model(name, EMBED_SIZE, size).double()
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(s=8.0), seed=0).double()
    parameters = [*model.parameters(), *head.parameters()]
    before, _ = head(model(pictures.double()), labels)
    before.backward()
    squares = sum(parameter.grad.square().sum() for parameter in parameters if parameter.grad is not None)
    with torch.no_grad():
        # A millionth of the loss: ten digits above float64's rounding, and so near that the curvature is small.
        predicted = 1e-6 * before
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.sub_(predicted / squares * parameter.grad)
        after, _ = head(model(pictures.double()), labels)
    assert (before - after).item() == pytest.approx(predicted.item(), rel=0.01)


@pytest.mark.parametrize("name", EACH)
def test_a_model_trains_is_saved_reloads_bit_equal_and_exports(name: str, one_rank: None, tmp_path: Path) -> None:
    size, pictures, labels = batch_for(name)
    torch.manual_seed(0)
    model = build_model(name, EMBED_SIZE, size)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, LossSettings(s=8.0), seed=0)
    optimizer = build_sgd([*model.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    learner = Learner(model, head, optimizer, StepSettings(clip_norm=5.0))
    learner.training_mode()
    first = {key: value.clone() for key, value in model.state_dict().items()}
    # Whether the loss falls within a few steps of this size is up to rounding.
    for iteration in range(ITERATIONS):
        metrics = learner.step([(pictures, labels)], iteration, 0.01)
        assert metrics["loss"].isfinite() and not metrics["skipped_steps"]
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(not torch.equal(value, first[key]) for key, value in model.state_dict().items() if value.ndim > 1)

    path = tmp_path / f"m_{ITERATIONS}.pt"
    contents = snapshot.SnapshotContents(name, EMBED_SIZE, Preprocessing(size).as_dict())
    SnapshotWriter(tmp_path, "m", TrainingState(learner), (), print).write(ITERATIONS, contents)
    loaded = load_backbone(path, snapshot.read(path), size)
    expected = embeddings_of(model.eval(), pictures)
    assert torch.equal(embeddings_of(loaded, pictures), expected)

    content = to_onnx(export_program(Deployed(loaded, None, l2_norm=False), size), {})
    assert str(ROOT).encode() not in content  # the exporter would note the sources of each node
    (tmp_path / "m.onnx").write_bytes(content)
    assert onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    network = OnnxModel(tmp_path / "m.onnx", torch.device("cpu"))
    for count in (1, 3):
        found = difference(expected[:count], network(pictures[:count]))
        assert found.within(LIMIT), found
