"""tools/export_weights.py: safetensors, Hub folders and state dicts hold the snapshot's numbers, and are read as it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import evaluate_lfw
from fr.alignment import CENTER_CROP, template_points
from fr.checkpoint import snapshot
from fr.errors import InputError
from fr.evaluation.score_check import Spread
from fr.evaluation.scored_model import open_model
from fr.files import safetensors
from fr.models import build_model
from fr.options.definitions import evaluation_options, train_options
from fr.preprocessing import Preprocessing
from fr.weights.loading import OWN, read_weights
from tests.conftest import REQUIRED, same_weights, validation_options
from tests.layouts_foreign import layout
from tests.weight_files import Tensors, filled
from tools import export_weights, import_weights

# Another channel order and other numbers than the defaults, so that a mix-up shows.
CONTRACT = Preprocessing((32, 48), "arcface", "umeyama", "bgr", (0.4, 0.45, 0.5), (0.2, 0.25, 0.3))
SPREADS = [Spread("lfw", "1", averaged, "", 10, (0.9, 0.1), (1.0, 0.1), (0.5,) * 64) for averaged in (False, True)]


def averages(tensors: Tensors) -> Tensors:
    return {key: tensor / 2 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def snap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tensors = build_model("rmnet", 16, CONTRACT.input_size).state_dict()
    path = tmp_path_factory.mktemp("snap") / "t_7.pt"
    contents = snapshot.SnapshotContents(
        "rmnet",
        16,
        CONTRACT.as_dict(),
        run={"seed": 1},
        config={"flipped_emb": True, "train_data_root": "/home/someone"},
        iteration=7,
        metrics={"threshold": 0.61, "accuracy": 0.98765, "auc": 0.99, "ema_threshold": 0.64, "ema_accuracy": 0.9},
        scores=[one.as_dict() for one in SPREADS],
        state_dict=tensors,
        average=averages(tensors),
    )
    snapshot.write_weights(path, contents)
    return path


def figures(tmp_path: Path, snap: Path, data: Path) -> dict[str, float]:
    out = tmp_path / "figures.json"
    assert evaluate_lfw.main(["--snap", str(snap), *validation_options(data), "--json", str(out)]) == 0
    values: dict[str, float] = json.loads(out.read_text())
    return values


def test_safetensors_are_scored_as_their_snapshot(snap: Path, tmp_path: Path, sample_data: Path) -> None:
    out, folder = tmp_path / "new" / "t.safetensors", tmp_path / "hub"
    assert export_weights.main([str(snap), str(out)]) == 0
    assert export_weights.main([str(out), str(folder)]) == 0  # of what is exported already
    assert [path.name for path in out.parent.iterdir()] == ["t.safetensors"]
    wanted = figures(tmp_path, snap, sample_data)
    assert figures(tmp_path, out, sample_data) == figures(tmp_path, folder, sample_data) == wanted
    before, after = snapshot.read(snap), snapshot.read(out)
    assert same_weights(after.state_dict, before.state_dict)
    assert (after.model, after.embed_size, after.iteration) == ("rmnet", 16, 7)
    assert (after.preprocessing, after.config) == (CONTRACT.as_dict(), {"flipped_emb": True})
    assert snapshot.read(folder / "model.safetensors").as_dict().keys() == after.as_dict().keys()


@pytest.mark.parametrize(("words", "threshold"), [([], 0.61), (["--averaged"], 0.64)])
def test_the_metadata_describe_the_weights_that_were_written(
    words: list[str], threshold: float, snap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t.safetensors"
    assert export_weights.main([str(snap), str(out), *words]) == 0
    tensors, metadata = safetensors.read(out)
    stored = snapshot.read(snap)
    assert same_weights(tensors, averages(stored.state_dict) if words else stored.state_dict)
    assert metadata["format"] == "pt"
    assert json.loads(metadata["face_recognition.preprocessing"]) == CONTRACT.as_dict()
    assert json.loads(metadata["face_recognition.model"]) == {
        **{"model": "rmnet", "embed_size": 16, "iteration": 7, "flipped_emb": True},
        **{"scores": [SPREADS[0].as_dict()], "threshold": threshold},
    }
    assert b"someone" not in out.read_bytes()
    opened = open_model(evaluation_options(["--snap", str(out)]).values, torch.device("cpu"))
    assert (opened.threshold, opened.noted, opened.preprocessing) == (threshold, [SPREADS[0]], CONTRACT)


def test_keywords_of_the_network_go_along(tmp_path: Path) -> None:
    kwargs = {"drop_path_rate": 0.05, "mask_ratio": 0}
    state = build_model("vit_t", 8, (18, 18), kwargs).state_dict()
    contents = snapshot.SnapshotContents(
        "vit_t", 8, Preprocessing((18, 18)).as_dict(), state_dict=state, model_kwargs=kwargs
    )
    snapshot.write_weights(tmp_path / "t_0.pt", contents)
    assert export_weights.main([str(tmp_path / "t_0.pt"), str(tmp_path / "hub")]) == 0
    assert snapshot.read(tmp_path / "hub" / "model.safetensors").model_kwargs == kwargs
    assert "--model_kwargs drop_path_rate=0.05 mask_ratio=0\n" in (tmp_path / "hub/README.md").read_text()


def test_a_training_begins_with_a_hub_folder_and_learns_from_it(snap: Path, tmp_path: Path) -> None:
    hub = str(tmp_path / "hub")
    assert export_weights.main([str(snap), hub]) == 0
    words = ["--init_from", hub, "--teacher", hub, "--distill_cosine_weight", "1"]
    options = train_options([*REQUIRED, *words]).values
    path = options.init_from
    assert path == options.teacher == str(tmp_path / "hub" / "model.safetensors")
    weights = read_weights(Path(path))
    assert (weights.source, weights.model, weights.embed_size) == (OWN, "rmnet", 16)
    assert (weights.input_size, weights.head) == ((32, 48), None)
    assert same_weights(weights.backbone, snapshot.read(snap).state_dict)


def test_the_folder_has_a_card_and_the_facts_as_json(
    snap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = tmp_path / "faces"
    assert export_weights.main([str(snap), str(hub), "--license", "cc-by-nc-4.0"]) == 0
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((hub / "config.json").read_text())
    assert (config["model"], config["embed_size"], config["threshold"]) == ("rmnet", 16, 0.61)
    assert Preprocessing.from_dict(config["preprocessing"]) == CONTRACT
    _, front, card = (hub / "README.md").read_text().split("---\n", 2)
    said: dict[str, Any] = yaml.safe_load(front)
    assert (said["license"], said["metrics"]) == ("cc-by-nc-4.0", ["accuracy", "roc_auc"])
    assert {"face-recognition", "rmnet"} <= {*said["tags"]}
    (model,) = said["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["dataset"]["name"]) == ("faces", "lfw")
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9877}, {"type": "roc_auc", "value": 0.99}]
    x, y = template_points("arcface", (32, 48))[0]
    for words in ("48 × 32", "0.4, 0.45, 0.5 (BGR)", "below 0.6100", f"({x:.2f}, {y:.2f})", "accuracy on lfw | 0.9877"):
        assert words in card
    printed = capsys.readouterr().out
    assert f"hf upload USER/faces {hub}" in printed
    assert printed.splitlines()[-1] == f"next: python evaluate_lfw.py --snap {hub} --val_data_root LFW"

    (hub / "README.md").write_text("mine")
    assert export_weights.main([str(snap), str(hub)]) == 0
    assert (hub / "README.md").read_text() == "mine"
    assert f"{hub}/README.md: exists, not changed" in capsys.readouterr().out


def test_a_card_without_scores_and_landmarks_names_none(tmp_path: Path) -> None:
    state = build_model("rmnet", 16, CONTRACT.input_size).state_dict()
    contract = replace(CONTRACT, alignment="center_crop")
    plain = snapshot.SnapshotContents("rmnet", 16, contract.as_dict(), state_dict=state)
    snapshot.write_weights(tmp_path / "t_0.pt", plain)
    assert export_weights.main([str(tmp_path / "t_0.pt"), str(tmp_path / "hub")]) == 0
    _, front, card = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["license"] == "other" and not {"metrics", "model-index"} & said.keys()
    assert "a shorter side of 55 pixels" in card and "similarity" not in card  # 48 × 256 / 224, rounded


@pytest.mark.parametrize("name", ["mbf", "iresnet18"])
def test_a_state_dict_has_insightfaces_keys(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = filled(layout(name, 8))
    contents = snapshot.SnapshotContents(name, 8, Preprocessing((112, 112)).as_dict(), state_dict=tensors)
    snapshot.write_weights(tmp_path / "t_0.pt", contents)
    assert export_weights.main([str(tmp_path / "t_0.pt"), str(tmp_path / "backbone.pth")]) == 0
    written = torch.load(tmp_path / "backbone.pth", weights_only=True)
    assert list(written) == list(layout(name, 8))
    assert same_weights(written, tensors)
    weights = read_weights(tmp_path / "backbone.pth")
    assert (weights.source, weights.model) == ("insightface", name)
    assert f"stores neither model nor preprocessing: {name}, 112×112 RGB" in capsys.readouterr().out


@pytest.mark.parametrize("alignment", ["umeyama", CENTER_CROP])
def test_the_command_for_a_state_dict_has_the_preprocessing_that_it_does_not_store(
    alignment: str, snap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = replace(CONTRACT, input_size=(18, 18), alignment=alignment)
    kwargs = {"drop_path_rate": 0.05, "mask_ratio": 0}
    network = build_model("vit_t", 8, contract.input_size, kwargs)
    contents = replace(
        snapshot.read(snap), model="vit_t", embed_size=8, preprocessing=contract.as_dict(), model_kwargs=kwargs,
        state_dict=network.state_dict(),
    )  # fmt: skip
    snapshot.write_weights(tmp_path / "t_1.pt", contents)
    assert export_weights.main([str(tmp_path / "t_1.pt"), str(tmp_path / "t.pth")]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    words = shlex.split(line.partition("tools/import_weights.py ")[2].replace("OUT.pt", str(tmp_path / "i.pt")))
    assert import_weights.main(words) == 0
    found = snapshot.read(tmp_path / "i.pt")
    assert found.model_kwargs == kwargs and found.model == "vit_t"
    unused = {"template": "arcface"} if alignment == CENTER_CROP else {}
    assert found.preprocessing | unused == contract.as_dict() | unused


def test_what_cannot_be_written_is_refused_and_leaves_the_file_as_it_was(
    snap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.safetensors"
    out.write_text("before")
    for words, said in (
        ([str(tmp_path / "t.onnx")], r"t\.onnx: must end in \.safetensors or \.pth, or be a folder"),
        ([str(out), "--license", "mit"], "is for a model card, so OUT must be a folder"),
        ([str(snap / "below.pth")], "can't be written"),
    ):
        with pytest.raises(InputError, match=said):
            export_weights.main([str(snap), *words])

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "write", full)
    with pytest.raises(InputError, match=r"t\.safetensors: can't be written: No space left on device"):
        export_weights.main([str(snap), str(out)])
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
