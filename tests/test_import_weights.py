"""tools/import_weights.py: other systems' weights as snapshots that evaluate_lfw.py and --init_from take."""

from pathlib import Path

import pytest
import torch
import torchvision

import evaluate_lfw
from fr.checkpoint import snapshot
from fr.errors import InputError
from fr.evaluation.scored_model import threshold_of
from fr.evaluation.verification import threshold_text
from fr.weights.loading import read_weights
from tests.conftest import same_weights, validation_options
from tests.layouts_001 import layout_001
from tests.layouts_foreign import layout
from tests.weight_files import Tensors, filled, with_prefix
from tools import import_weights

NAMES = ["ann", "bob", "eve"]


@pytest.fixture
def ancestor_file(tmp_path: Path) -> tuple[Path, Tensors]:
    """face_recognition.pytorch's snapshot for 32 × 32 images, embeddings of 16 and three classes."""
    tensors = filled(layout_001("mobilenet", 16) | {"dw_pool.weight": (512, 1, 2, 2), "fc_angular.weight": (16, 3)})
    torch.save({"epoch": 1, "state_dict": tensors}, tmp_path / "001.pt")
    return tmp_path / "001.pt", tensors


def test_an_imported_file_is_a_snapshot_with_the_familys_preprocessing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = filled(layout("mobilefacenet", 128, (7, 6)))
    torch.save({"net_state_dict": tensors}, tmp_path / "068.ckpt")
    out = tmp_path / "snapshots" / "net_0.pt"
    assert import_weights.main([str(tmp_path / "068.ckpt"), str(out)]) == 0
    contents = snapshot.read(out)
    assert same_weights(contents.state_dict, tensors)
    assert (contents.model, contents.embed_size, contents.iteration) == ("mobilefacenet", 128, 0)
    preprocessing = contents.preprocessing
    assert (preprocessing["template"], preprocessing["alignment"]) == ("sphereface", "umeyama")
    assert (preprocessing["input_size"], preprocessing["std"]) == ([112, 96], [128 / 255] * 3)
    printed = capsys.readouterr().out
    assert "mobilefacenet (MobileFaceNet_Pytorch), " in printed
    assert "embeddings of 128, no head" in printed
    assert "96×112 RGB, umeyama to the sphereface template" in printed
    assert printed.splitlines()[-1] == f"next: python evaluate_lfw.py --snap {out} --val_data_root LFW"
    assert [path.name for path in out.parent.iterdir()] == ["net_0.pt"]
    assert snapshot.newest(out.parent, "net") is None  # without a training state there is nothing to resume


def test_adafaces_input_is_blue_green_red_unless_told_otherwise(tmp_path: Path) -> None:
    torch.save({"state_dict": with_prefix(filled(layout("ir18", 8)), "model.")}, tmp_path / "adaface.ckpt")
    for words, order in (([], "bgr"), (["--color_order", "rgb"], "rgb")):
        assert import_weights.main([str(tmp_path / "adaface.ckpt"), str(tmp_path / "out.pt"), *words]) == 0
        preprocessing = snapshot.read(tmp_path / "out.pt").preprocessing
        assert (preprocessing["color_order"], preprocessing["template"]) == (order, "arcface")
        assert preprocessing["mean"] == preprocessing["std"] == [0.5, 0.5, 0.5]


def test_an_imported_head_keeps_its_names(ancestor_file: tuple[Path, Tensors], tmp_path: Path) -> None:
    path, tensors = ancestor_file
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    command = [str(path), str(tmp_path / "out.pt"), "--identities", str(tmp_path / "names.txt")]
    assert import_weights.main([*command, "--template", "arcface"]) == 0
    again = read_weights(tmp_path / "out.pt")
    assert again.head is not None
    assert torch.equal(again.head, tensors["fc_angular.weight"].T)
    assert again.identities == NAMES
    assert snapshot.read(tmp_path / "out.pt").preprocessing["template"] == "arcface"
    (tmp_path / "names.txt").write_text("one\n")
    with pytest.raises(InputError, match="1 identity for a head of 3 classes"):
        import_weights.main(command)


def test_an_imported_file_is_scored_as_it_is(
    ancestor_file: tuple[Path, Tensors], tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = ancestor_file
    assert import_weights.main([str(path), str(tmp_path / "out.pt")]) == 0
    printed = capsys.readouterr().out
    assert "32×32 RGB, procrustes to the sphereface template" in printed
    assert "\n--mean, --std: the file stores none; mobilenet's are taken: " in printed  # the shapes tell the size
    command = ["--snap", str(tmp_path / "out.pt"), *validation_options(sample_data), "--device", "cpu"]
    assert evaluate_lfw.main([*command, "--mean", "0.4", "0.4", "0.4"]) == 0  # its threshold isn't the file's
    assert "stored the threshold" not in capsys.readouterr().out
    before = snapshot.read(tmp_path / "out.pt")
    assert evaluate_lfw.main([*command, "--flipped_emb"]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/out.pt: stored the threshold, for tools/identify.py" in printed
    kept = snapshot.read(tmp_path / "out.pt")
    assert f"Estimated threshold: {threshold_text(kept.metrics['threshold'])}" in printed
    assert kept.config["flipped_emb"] is True
    assert threshold_of(kept.metrics) is not None
    assert same_weights(kept.state_dict, before.state_dict)
    assert evaluate_lfw.main(command) == 0
    assert "stored the threshold" not in capsys.readouterr().out
    assert snapshot.read(tmp_path / "out.pt").metrics == kept.metrics


def test_what_makes_no_snapshot_is_refused(ancestor_file: tuple[Path, Tensors], tmp_path: Path) -> None:
    path, tensors = ancestor_file
    out = tmp_path / "out.pt"
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "imagenet.pth")
    del tensors["features.1.weight"], tensors["fc_angular.weight"]
    torch.save(tensors, tmp_path / "short.pt")
    (tmp_path / "resumable.state").mkdir()
    names = ["--identities", str(tmp_path / "names.txt")]
    for command, said in (
        ([str(tmp_path / "imagenet.pth"), str(out)], "no embedding layer, no head: there is nothing to score"),
        ([str(tmp_path / "short.pt"), str(out)], r"missing there: 1\n  stem\.3\.weight"),
        ([str(path), str(tmp_path / "out.pth")], r"must end in \.pt"),
        ([str(path), str(tmp_path / "resumable.pt")], "not belong to a training state"),
        ([str(path), str(path / "below.pt")], "can't be written"),
        ([str(path), str(out), "--model", "rmnet"], r"--model rmnet: .*001\.pt: mobilenet "),
        ([str(path), str(out), *names], r"names\.txt: can't be read"),
    ):
        with pytest.raises(InputError, match=said):
            import_weights.main(command)
        assert not out.exists()
    assert import_weights.main([str(path), str(out)]) == 0
    with pytest.raises(InputError, match="is a snapshot of this trainer already"):
        import_weights.main([str(out), str(tmp_path / "again.pt")])
