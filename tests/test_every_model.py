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
from fr.preprocessing import Preprocessing
from fr.train.learner import Learner, StepSettings
from fr.train.optimizer import build_sgd
from tests.conftest import ROOT
from tools.benchmarks.case_ranks import loss_settings
from tools.export_onnx import LIMIT

CLASSES, EMBED_SIZE, ITERATIONS = 6, 16, 10


@pytest.mark.parametrize(
    "name", [name if name == "mobilenet" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_model_trains_is_saved_reloads_bit_equal_and_exports(name: str, one_rank: None, tmp_path: Path) -> None:
    size = (64, 64) if family(name).input_size[0] > 128 else (48, 48)
    torch.manual_seed(0)
    model = build_model(name, EMBED_SIZE, size)
    head = MarginSoftmax(CLASSES, EMBED_SIZE, loss_settings(s=8.0), seed=0)
    optimizer = build_sgd([*model.parameters(), *head.parameters()], 0.01, 0.9, 1e-4)
    pictures = random_pixels(CLASSES, size) / 255
    learner = Learner(model, head, optimizer, StepSettings(clip_norm=5.0))
    learner.training_mode()
    batch = [(pictures, torch.arange(CLASSES))]
    losses = [learner.step(batch, k, 0.01)["loss"].item() for k in range(ITERATIONS)]
    assert losses[-1] < losses[0]

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
