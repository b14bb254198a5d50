"""Wrong landmarks, colours and templates are told by the scores, right ones raise no alarm; what training notes."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import evaluate_lfw
import train
from fr.checkpoint import snapshot
from fr.data.pipeline import DaliSettings
from fr.data.verification_set import VerificationSet, read_sets, sets_to_score
from fr.distributed import Ranks, open_ranks
from fr.errors import InputError
from fr.evaluation.embedding import embed, with_mirror_image
from fr.evaluation.score_check import Spread, deviation_warning, read_spreads
from fr.evaluation.scored_model import load_backbone
from fr.files.model_metadata import CONTRACT_KEY, FACTS_KEY
from fr.onnx.model import OnnxModel
from fr.preprocessing import Preprocessing
from tests.conftest import SPREAD, data_options, validation_options

DALI = DaliSettings("cpu", None, 1)
CONTRACT = Preprocessing((112, 112), "arcface", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NOTED = Spread("lfw", "of these", False, "sum", 800, (0.65, 0.126), (0.004, 0.1), (0.1, 0.5) * 32)

Evaluate = Callable[..., str]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """evaluate(*options) → evaluate_lfw.py's warning about scores, "" if there is none."""

    def run(*options: str) -> str:
        assert evaluate_lfw.main(["--bootstrap", "0", "--device", "cpu", *options]) == 0
        warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        lines = [line for line in warnings if "taken for aligned crops" not in line]  # of 250×250 pixels
        assert len(lines) <= 1
        return "".join(lines)

    return run


# --- a really trained network on real faces ---------------------------------------------------------------------------


def cosines(rows: np.ndarray, of: VerificationSet) -> np.ndarray:
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (unit[of.faces.pairs[:, 0]] * unit[of.faces.pairs[:, 1]]).sum(axis=1)


@pytest.fixture(scope="module")
def small_lfw(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fifth of the pairs of faces-mini/lfw, in its layout."""
    data, out = shared_data / "faces-mini/lfw", tmp_path_factory.mktemp("small_lfw")
    lines = (data / "pairs.txt").read_text().splitlines()[1:]
    kept = [line for row, line in enumerate(lines) if row % 40 < 8]
    (out / "pairs.txt").write_text("\n".join(["10\t8", *kept]) + "\n")
    (out / "lfw").symlink_to(data / "lfw")
    (out / "lfw_landmark.txt").symlink_to(data / "lfw_landmark.txt")
    return out


@pytest.fixture(scope="module")
def model(small_lfw: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with its contract, and with the note that a validation on `small_lfw` would have made."""
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    source = shared_data / "models/mobilefacenet.onnx"
    (of,) = read_sets([f"{small_lfw}/lfw", f"{small_lfw}/pairs.txt", f"{small_lfw}/lfw_landmark.txt"], "auto", [])
    with open_ranks("cpu") as ranks:
        rows = embed(OnnxModel(source, ranks.device), of.faces, CONTRACT, DALI, ranks, 32)
    spread = Spread.measure(of, cosines(rows, of), averaged=False, flip="")
    network = onnx.load(source)
    facts = {"scores": [spread.as_dict()]}
    onnx.helper.set_model_props(network, {CONTRACT_KEY: json.dumps(CONTRACT.as_dict()), FACTS_KEY: json.dumps(facts)})
    onnx.save(network, path)
    return path


@pytest.mark.thorough
def test_the_right_preparation_raises_no_alarm(model: Path, small_lfw: Path, evaluate: Evaluate) -> None:
    options = ["--snap", str(model), "--val_data_root", str(small_lfw)]
    assert evaluate(*options, "--val_batch_size", "7", "--dali_threads", "2") == ""
    assert evaluate(*options, "--dist", "l2", "--protocol", "histogram") == ""  # what is compared are the cosines
    assert evaluate(*options, "--center", "--flipped_emb") == ""  # another embedding: not the training's scores


def shuffled(data: Path, out: Path) -> list[str]:
    """Landmarks of other images."""
    rows = [line.split("\t") for line in (data / "lfw_landmark.txt").read_text().splitlines()]
    order = np.random.default_rng(0).permutation(len(rows))
    text = "\n".join("\t".join([row[0], *rows[other][1:]]) for row, other in zip(rows, order, strict=True))
    (out / "shuffled.txt").write_text(text)
    return ["--val_landmarks", str(out / "shuffled.txt")]


WRONG = {
    "landmarks of other images": shuffled,
    # LFW's published landmarks belong to its original images; these are the deep-funneled ones.
    "landmarks of another frame": lambda data, _: ["--val_landmarks", str(data / "../../lfw/lfw_landmark.txt")],
    "swapped colours": lambda _data, _: ["--color_order", "bgr"],
    "another template": lambda _data, _: ["--template", "sphereface"],
    "another normalisation": lambda _data, _: ["--mean", ".5", ".5", ".5", "--std", ".5", ".5", ".5"],
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_preparation_is_told_with_both_distributions(
    mistake: str, model: Path, small_lfw: Path, shared_data: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    places = [f"{small_lfw}/lfw", "--val_list", f"{small_lfw}/pairs.txt"]
    right = ["--val_landmarks", f"{small_lfw}/lfw_landmark.txt"]
    said = WRONG[mistake](shared_data / "faces-mini/lfw", tmp_path)
    warning = evaluate(
        "--snap", str(model), "--val_data_root", *places, *right, *said, "--report", str(tmp_path / "page")
    )
    (note,) = OnnxModel(model, torch.device("cpu")).facts["scores"]
    (same, same_std), (different, different_std) = note["same"], note["different"]
    told = f"same pairs {same:.3f} ± {same_std:.3f}, different pairs {different:.3f} ± {different_std:.3f}"
    assert warning.startswith("warning: lfw: the scores aren't those of the training: same pairs ")
    assert f"; there {told}, of the same pairs, which changed by 0." in warning
    assert "Check the landmarks" in warning and "colour order" in warning and "template" in warning
    facts = json.loads((tmp_path / "page/report.json").read_text())["facts"]
    assert f"warning: {facts['warning']}" == warning


def test_another_set_is_judged_by_its_different_pairs_alone(
    model: Path, shared_data: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    data = shared_data / "faces-mini/vggface2"
    people = sorted((data / "train").iterdir())[:41]
    faces = [[f"{one.name}/{path.name}" for path in sorted(one.iterdir())[:2]] for one in people]
    rows = [f"{first} {second} 1" for first, second in faces[:40]]
    rows += [f"{one[0]} {other[1]} 0" for one, other in pairwise(faces)]
    for name in ("right", "crops"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photographs").symlink_to(data / "train")
        (tmp_path / name / "pairs.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "right" / "landmarks.csv").symlink_to(data / "bb_landmark/loose_landmark_train.csv")
    assert evaluate("--snap", str(model), "--val_sets", str(tmp_path / "right")) == ""
    warning = evaluate("--snap", str(model), "--val_sets", str(tmp_path / "crops"))  # images taken for crops
    assert warning.startswith("warning: pairs: the scores aren't those of the training: ")
    assert ", of lfw. Check " in warning


# --- what a training notes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    options = [*data_options(sample_data), *validation_options(sample_data), "--max_iterations", "3", "--flipped_emb"]
    options += ["--input_size", "32", "--embed_size", "16", "--train_batch_size", "16", "--ema_decay", "0.5"]
    train.main([*options, *SPREAD, "--snap_folder", str(out), "--snap_prefix", "t", "--log_folder", str(out / "logs")])
    return out / "t_3.pt"


def test_a_snapshot_notes_where_the_scores_of_its_validation_lay(trained: Path, sample_data: Path) -> None:
    contents = snapshot.read(trained)
    contract = Preprocessing.from_dict(contents.preprocessing)
    places = validation_options(sample_data)[1::2]
    (of,) = read_sets(places, "auto", [])
    assert contents.scores and len(contents.scores) == 2
    assert abs(np.diff([note["sample"] for note in contents.scores], axis=0)).max() > 1e-5  # of different weights
    for averaged, note in enumerate(contents.scores):
        network = load_backbone(trained, contents, contract.input_size, averaged=bool(averaged))
        with open_ranks("cpu") as ranks:
            expected = cosines(embed(with_mirror_image(network, "sum"), of.faces, contract, DALI, ranks, 20), of)
        assert (note["set"], note["averaged"], note["flip"], note["pairs"]) == ("lfw", bool(averaged), "sum", 40)
        for kind, chosen in (("same", of.faces.same), ("different", ~of.faces.same)):
            found = [expected[chosen].mean(), expected[chosen].std()]
            assert note[kind] == pytest.approx(found, abs=1e-6)  # float32 embeddings
        assert len(note["sample"]) == 64
        ends = note["sample"][0], note["sample"][-1]
        assert ends == pytest.approx((expected[0], expected[-1]), abs=1e-6)


def test_the_same_weights_on_the_same_set_raise_no_alarm(trained: Path, evaluate: Evaluate) -> None:
    assert evaluate("--snap", str(trained), "--val_batch_size", "3") == ""
    assert evaluate("--snap", str(trained), "--averaged") == ""
    for weights in ("true", "false"):  # that these are compared at all
        told = evaluate("--snap", str(trained), "--averaged", weights, "--template", "arcface")
        assert "of the same pairs" in told


def told_on_a_rank(path: str) -> str:
    contents = snapshot.read(Path(path))
    contract = Preprocessing.from_dict(contents.preprocessing)
    ranks = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), 0, 1, torch.device("cpu"))
    (of,) = sets_to_score({}, contents.config, path)
    network = with_mirror_image(load_backbone(Path(path), contents, contract.input_size), "sum")
    rows = embed(network, of.faces, contract, DALI, ranks, 9)
    now = Spread.measure(of, cosines(rows, of), False, "sum")
    return deviation_warning(now, read_spreads(Path(path), contents.scores)[:1])


def test_more_ranks_raise_no_alarm(run_distributed: Callable[..., list[str]], trained: Path) -> None:
    assert run_distributed(2, told_on_a_rank, str(trained)) == ["", ""]


def test_a_snapshot_without_a_note_is_scored_without_a_word(
    trained: Path, evaluate: Evaluate, tmp_path: Path
) -> None:
    contents = torch.load(trained, weights_only=True)
    del contents["scores"]
    torch.save(contents, tmp_path / "old.pt")
    assert evaluate("--snap", str(tmp_path / "old.pt"), "--template", "arcface", "--color_order", "bgr") == ""


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, False),
        ({"sample": (0.105, 0.495) * 32}, False),
        ({"sample": (0.107, 0.493) * 32}, True),  # no mean has moved
        ({"same": (0.3, 0.126), "sample": (0.2, 0.5) * 32}, True),
        # Other pairs, or another embedding: a set may be harder, and people a little more alike.
        ({"pairs_hash": "others", "same": (0.3, 0.2), "different": (0.2, 0.15)}, False),
        ({"flip": "", "same": (0.3, 0.2), "different": (0.2, 0.15)}, False),
        ({"pairs_hash": "others", "same": (0.65, 0.126), "different": (0.21, 0.104)}, True),
        ({"pairs_hash": "others", "different": (-0.5, 0.104)}, False),
    ],
)
def test_the_same_pairs_stay_in_place_and_others_in_bounds(change: dict, told: bool) -> None:
    assert bool(deviation_warning(replace(NOTED, **change), [NOTED])) is told
    assert deviation_warning(replace(NOTED, **change), []) == ""


def test_a_set_is_held_against_its_own_note_or_the_most_alike_one() -> None:
    calfw = replace(NOTED, set="calfw", pairs_hash="aged", same=(0.45, 0.16), different=(0.2, 0.1))
    assert deviation_warning(calfw, [NOTED, calfw]) == ""
    assert deviation_warning(replace(calfw, sample=(0.2, 0.5) * 32), [NOTED, calfw]) != ""
    assert deviation_warning(replace(NOTED, pairs_hash="others", different=(0.3, 0.1)), [NOTED, calfw]) == ""
    assert "of calfw" in deviation_warning(replace(NOTED, pairs_hash="others", different=(0.5, 0.1)), [NOTED, calfw])


def test_a_network_that_gives_all_pictures_one_embedding_raises_no_alarm_by_rounding() -> None:
    collapsed = replace(NOTED, same=(1.0, 0.0), different=(1.0, 0.0))
    assert deviation_warning(replace(collapsed, sample=(0.1 - 1e-5, 0.5 + 1e-5) * 32), [collapsed]) == ""
    assert deviation_warning(replace(collapsed, pairs_hash="others", different=(1 + 1e-6, 1e-6)), [collapsed]) == ""


@pytest.mark.parametrize(
    "stored",
    [
        5, {"same": 1}, ["x"], [{}], [NOTED.as_dict() | {"other": 1}], [NOTED.as_dict() | {"same": [0.1]}],
        [NOTED.as_dict() | {"same": [0.1, 0.2, 0.3]}], [NOTED.as_dict() | {"sample": []}],
        [NOTED.as_dict() | {"different": [float("nan"), 0.2]}], [NOTED.as_dict() | {"same": ["0.1", 0.2]}],
    ],
)  # fmt: skip
def test_notes_of_no_use_are_refused(stored: object) -> None:
    with pytest.raises(InputError, match=r"x\.pt: the scores stored in it are invalid"):
        read_spreads(Path("x.pt"), stored)
    assert read_spreads(Path("x.pt"), json.loads(json.dumps([NOTED.as_dict()]))) == [NOTED]
