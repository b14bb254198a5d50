"""Kept embeddings: a hit embeds nothing and gives equal bits; whatever they depend on makes a miss when it changes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fr.distributed import Ranks, open_ranks
from fr.errors import InputError
from fr.evaluation import embedding, embedding_cache, scored_model, scoring
from fr.evaluation.embedding_cache import cached_embeddings, weights_digest
from fr.options.definitions import evaluation_options
from fr.preprocessing import Preprocessing
from tests.builders.verification_faces import faces_of
from tests.conftest import one_layer

SIZE = (32, 32)
Evaluate = Callable[..., tuple[bool, np.ndarray]]


def write_snapshot(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network, average = (one_layer("", 16, SIZE) for _ in "wa")
    contents = {
        "format": 1, "model": "mobilenet", "embed_size": 16, "preprocessing": Preprocessing(SIZE).as_dict(),
        "iteration": 0, "state_dict": network.state_dict(), "average": average.state_dict(), "metrics": {}, "run": {},
        "config": {},
    }  # fmt: skip
    torch.save(contents, path)


@pytest.fixture
def data(sample_data: Path, tmp_path: Path) -> Path:
    shutil.copytree(sample_data / "lfw", tmp_path / "data/lfw")
    return tmp_path / "data"


@pytest.fixture
def snap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scored_model, "build_model", one_layer)
    write_snapshot(tmp_path / "t.pt", 0)
    return tmp_path / "t.pt"


@pytest.fixture
def evaluate(snap: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """evaluate(*options) → whether the network was asked, and the scores."""
    embed, asked = embedding.embed, []

    def counted(*arguments: Any) -> np.ndarray:
        asked.append(1)
        return embed(*arguments)

    monkeypatch.setattr(scoring, "embed", counted)

    def run(*options: str) -> tuple[bool, np.ndarray]:
        asked.clear()
        place = ["--snap", str(snap), "--val_data_root", str(data / "lfw"), "--device", "cpu", "--cache"]
        with open_ranks("cpu") as ranks:
            (scored,) = scoring.score(evaluation_options([*place, *options]), ranks)
        return bool(asked), scored.scores

    return run


def test_a_second_evaluation_embeds_nothing_and_gives_equal_bits(
    evaluate: Evaluate, snap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, scores = evaluate()
    assert first and "read from" not in capsys.readouterr().err
    again, same = evaluate("--val_batch_size", "3", "--dali_threads", "2")
    assert not again and np.array_equal(scores, same)
    assert "--cache: embeddings of " in capsys.readouterr().err
    plain, expected = evaluate("--cache", "false", "--dist", "l2")
    assert plain  # no effect without the option
    for options in (["--dist", "l2"], ["--center"], ["--protocol", "histogram"]):
        asked, found = evaluate(*options)
        assert not asked
        if options[0] == "--dist":
            np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 embeddings in other batches
    assert [path.name for path in snap.parent.iterdir() if path.suffix == ".embeddings"] == ["t.embeddings"]


def other_weights(snap: Path, _data: Path) -> None:
    write_snapshot(snap, 1)


def other_picture(_snap: Path, data: Path) -> None:
    """Another one of the same name, size and time."""
    path = sorted((data / "lfw/lfw").rglob("*.jpg"))[0]
    status, content = path.stat(), bytearray(path.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_landmark(_snap: Path, data: Path) -> None:
    path = data / "lfw/lfw_landmark.txt"
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    for line in lines:
        line[1] = str(float(line[1]) + 1)
    path.write_text("\n".join("\t".join(line) for line in lines))


@pytest.mark.parametrize("change", [other_weights, other_picture, other_landmark])
def test_whatever_changes_in_a_file_is_noticed(
    change: Callable[[Path, Path], None], evaluate: Evaluate, snap: Path, data: Path
) -> None:
    _, before = evaluate()
    change(snap, data)
    asked, after = evaluate()
    assert asked and not np.array_equal(before, after)
    assert not evaluate()[0]
    assert len(list(snap.with_suffix(".embeddings").iterdir())) == 1  # what is out of date goes


@pytest.mark.parametrize(
    "options",
    ["--flipped_emb", "--flipped_emb --flip_mode concat", "--averaged", "--template arcface", "--color_order bgr"],
)
def test_other_options_have_other_embeddings(options: str, evaluate: Evaluate) -> None:
    _, plain = evaluate()
    asked, other = evaluate(*options.split())
    assert asked and not np.array_equal(plain, other)
    again, same = evaluate(*options.split())
    assert not again and np.array_equal(other, same)
    assert not evaluate()[0]  # both are kept


def test_another_version_of_the_software_embeds_anew(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate()
    monkeypatch.setattr(torch, "__version__", "9.9")
    embedding_cache._code.cache_clear()
    assert evaluate()[0]
    embedding_cache._code.cache_clear()


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "of another file"])
def test_a_damaged_entry_is_never_used(
    damage: str, evaluate: Evaluate, snap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, scores = evaluate()
    (entry,) = snap.with_suffix(".embeddings").iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "of another file":
        evaluate("--flipped_emb")
        (other,) = {*snap.with_suffix(".embeddings").iterdir()} - {entry}
        content = bytearray(other.read_bytes())
    elif damage == "cut off":
        content = content[:-1000]
    else:
        content[len(content) // 2] ^= 1
    entry.write_bytes(content)
    capsys.readouterr()
    asked, found = evaluate()
    assert asked and np.array_equal(scores, found)
    assert "computing the embeddings again" in capsys.readouterr().err
    again, found = evaluate()
    assert not again and np.array_equal(scores, found)


def test_a_folder_that_can_not_be_written_is_a_note(
    evaluate: Evaluate, snap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snap.with_suffix(".embeddings").touch()
    assert evaluate()[0] and evaluate()[0]
    assert capsys.readouterr().err.count("--cache: embeddings can't be kept in ") == 2


def test_a_photograph_that_can_not_be_read_is_named_as_ever(evaluate: Evaluate, data: Path) -> None:
    path = sorted((data / "lfw/lfw").rglob("*.jpg"))[0]
    path.write_bytes(b"")
    with pytest.raises(InputError, match=f"{path}: can't be decoded"):
        evaluate()
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=f"{path}: can't be read"):
        evaluate()


def test_what_changes_while_it_is_embedded_is_not_kept(snap: Path, data: Path, one_rank: None) -> None:
    ranks, rows = Ranks(0, 1, 0, 1, torch.device("cpu")), np.ones((3, 2), np.float32)
    for change in (other_weights, other_picture):

        def embed(change: Callable[[Path, Path], None] = change) -> np.ndarray:
            change(snap, data)
            return rows

        cached_embeddings(snap, weights_digest(snap), [], faces_of(data), ranks, embed)
        assert not snap.with_suffix(".embeddings").exists()


def test_weights_in_other_files_are_not_vouched_for(
    snap: Path, data: Path, one_rank: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights_digest(snap)
    path = snap.with_name("t.onnx")
    path.write_bytes(b"\x0a\x08location\x12\x05w.bin")
    assert weights_digest(path) == weights_digest(snap.with_name("missing")) == ""
    ranks = Ranks(0, 1, 0, 1, torch.device("cpu"))
    cached_embeddings(path, weights_digest(path), [], faces_of(data), ranks, lambda: np.ones((3, 2), np.float32))
    assert capsys.readouterr().err == f"--cache: embeddings aren't kept: {path} may have weights in other files\n"
    assert not path.with_suffix(".embeddings").exists()


def rows_on_a_rank(snap: str, data: str, known: bool) -> torch.Tensor:
    ranks = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), 0, 1, torch.device("cpu"))

    def embed() -> np.ndarray:
        assert not known
        return np.arange(6, dtype=np.float32).reshape(3, 2) / 7

    path = Path(snap)
    return torch.from_numpy(cached_embeddings(path, weights_digest(path), [], faces_of(Path(data)), ranks, embed))


def test_any_number_of_ranks_finds_what_one_has_kept(
    run_distributed: Callable[..., list[torch.Tensor]], snap: Path, data: Path
) -> None:
    (written,) = run_distributed(1, rows_on_a_rank, str(snap), str(data), False)
    for rows in run_distributed(2, rows_on_a_rank, str(snap), str(data), True):
        assert torch.equal(rows, written)
