"""--init_from and --pretrained: a run begins with exactly those weights, on any number of ranks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fr.checkpoint import snapshot
from fr.checkpoint.snapshot_writer import SnapshotWriter
from fr.checkpoint.training_state import TrainingState, read_head
from fr.data.training_stream import TrainingStream
from fr.distributed import rank
from fr.errors import InputError
from fr.losses.classifier import MarginSoftmax
from fr.models import build_model
from fr.options.losses import LossSettings
from fr.train.learner import Learner
from fr.train.optimizer import build_sgd
from fr.weights.initial_weights import InitialWeights, head_rows, initialise, numbers_note, read_identities
from fr.weights.loading import read_weights
from tests.conftest import Losses, same_weights, weights
from tests.layouts_001 import layout_001
from tests.weight_files import filled

CONTENTS = snapshot.SnapshotContents("small", 3, {"input_size": [8, 8]})
THEIRS = ["ann", "bob", "eve", "dan", "kim"]
OURS = ["kim", "zoe", "bob", "ida", "ann", "max", "eve"]


def make_run(classes: int, seed: int) -> tuple[nn.Module, MarginSoftmax, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    head = MarginSoftmax(classes, 3, LossSettings(), seed)
    return backbone, head, build_sgd([*backbone.parameters(), *head.parameters()], 0.1, 0.9, 0.0)


# --- head surgery -----------------------------------------------------------------------------------------------------


@given(st.data())
def test_rows_follow_their_names(data: st.DataObject) -> None:
    name = st.text("abc", min_size=1, max_size=2)
    theirs, ours = (data.draw(st.lists(name, unique=True, max_size=8)) for _ in range(2))
    head, fresh = torch.randn(len(theirs), 3), torch.randn(len(ours), 3)
    rows = head_rows(head, theirs, ours, fresh)
    for place, who in enumerate(ours):
        assert torch.equal(rows[place], head[theirs.index(who)] if who in theirs else fresh[place])


def test_names_or_rows_of_another_number_are_refused_with_both() -> None:
    with pytest.raises(InputError, match="2 identities for a head of 3 classes"):
        head_rows(torch.ones(3, 4), ["a", "b"], ["a"], torch.ones(1, 4))
    with pytest.raises(InputError, match="has 4 numbers, one of this run 5"):
        head_rows(torch.ones(1, 4), ["a"], ["a"], torch.ones(1, 5))


def write_snapshot(folder: str) -> torch.Tensor:
    """On all ranks; returns this rank's centres."""
    backbone, head, optimizer = make_run(len(THEIRS), 1)
    state = TrainingState(Learner(backbone, head, optimizer))
    SnapshotWriter(Path(folder), "net", state, THEIRS, print).write(5, CONTENTS)
    return head.weight.detach()


def test_names_that_cannot_be_written_leave_the_older_snapshot_whole(
    one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_snapshot(str(tmp_path))
    before = (tmp_path / "net_5.pt").read_bytes()
    open_whole = Path.open

    def fails(path: Path, *mode: Any, **settings: Any) -> Any:
        if path.name == "identities.txt" and mode == ("wb",):
            raise OSError("no space left")
        return open_whole(path, *mode, **settings)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr(Path, "open", fails)
        write_snapshot(str(tmp_path))
    assert snapshot.newest(tmp_path, "net") == tmp_path / "net_5.pt"
    assert (tmp_path / "net_5.pt").read_bytes() == before
    assert read_head(tmp_path / "net_5.state")[1] == THEIRS


def begin_from(folder: str) -> dict[str, Any]:
    backbone, head, _ = make_run(len(OURS), 2)
    said = initialise(backbone, head, OURS, InitialWeights(f"{folder}/net_5.pt", False, "", False, "", []), False)
    return {"head": head.weight.detach(), "said": said, "backbone": dict(backbone.state_dict())}


def fresh_centres() -> torch.Tensor:
    return make_run(len(OURS), 2)[1].weight.detach()


def refuse_on_one_rank(folder: str) -> str:
    backbone, head, _ = make_run(len(OURS), 2)
    path = f"{folder}/net_5.pt" if rank() else f"{folder}/absent.pt"
    with pytest.raises(InputError) as refusal:
        initialise(backbone, head, OURS, InitialWeights(path, False, "", False, "", []), False)
    return str(refusal.value)


def test_identities_matched_by_numbers_are_named_so() -> None:
    assert numbers_note(["0", "1", "12"]) == (
        "; they are matched by numbers, right only if both trainings number the same people alike"
    )
    assert numbers_note(["0", "n000001"]) == ""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_head_written_on_two_ranks_begins_on_one_two_and_three(
    ranks: int, run_distributed: Callable[..., list[Any]], tmp_path: Path
) -> None:
    written = torch.cat(run_distributed(2, write_snapshot, str(tmp_path)))
    assert (tmp_path / "net_5.state" / "identities.txt").read_text() == "ann\nbob\neve\ndan\nkim\n"
    begun = run_distributed(ranks, begin_from, str(tmp_path))
    (fresh,) = run_distributed(1, fresh_centres)
    wanted = torch.stack([written[THEIRS.index(n)] if n in THEIRS else fresh[i] for i, n in enumerate(OURS)])
    assert torch.equal(torch.cat([result["head"] for result in begun]), wanted)
    stored = torch.load(tmp_path / "net_5.pt", weights_only=True)["state_dict"]
    for result in begun:
        assert same_weights(result["backbone"], stored)
        assert result["said"][-1] == "head: 4 of 7 classes start from the file's, 3 are new"
    if ranks == 2:
        first, second = run_distributed(2, refuse_on_one_rank, str(tmp_path))
        assert "absent.pt: can't be read" in first
        assert "another rank couldn't read it" in second


def test_lists_of_names_with_empty_or_equal_lines_are_refused(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ann\n\nbob\nann\n")
    with pytest.raises(InputError) as refusal:
        read_identities(names)
    assert refusal.value.problems == (f"{names}:2: the line is empty", f"{names}:4: 'ann' is on line 1, too")
    names.write_bytes(b"ann\r\nbob smith\r\n")
    assert read_identities(names) == ["ann", "bob smith"]


# --- through the real entry -------------------------------------------------------------------------------------------

# So small that float32 weights stay what they are.
STILL = ["--lr", "1e-30", "--max_iterations", "1", "--freeze_bn"]


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(capsys.readouterr())


@pytest.fixture
def first_batch(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Images and labels of the first iteration of each run, as they come."""
    seen: list[Any] = []

    batches = TrainingStream.__iter__

    def noted(stream: TrainingStream) -> Iterator[Any]:
        for number, batch in enumerate(batches(stream)):
            if number == 0:
                seen.append(batch)
            yield batch

    monkeypatch.setattr(TrainingStream, "__iter__", noted)
    return seen


def test_a_run_begins_with_the_loss_of_the_network_and_head_it_is_given(
    run: Callable[..., Losses], first_batch: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    afresh = run(out=tmp_path / "before")
    path = tmp_path / "before" / "snapshots" / "tiny_3.pt"
    begun = run("--init_from", str(path), "--freeze_bn", out=tmp_path / "after")
    assert "head: 12 of 12 classes start from the file's, 0 are new" in printed(capsys)
    images, labels = first_batch[1]
    backbone = build_model("mobilenet", 16, (32, 32)).eval()
    backbone.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    centres, _ = read_head(snapshot.state_path(path))
    with torch.no_grad():
        cosines = F.normalize(backbone(images).double()) @ F.normalize(centres.double()).T
    target = F.one_hot(labels, 12)
    expected = F.cross_entropy(30 * (cosines - 0.35 * target), labels)  # CosFace, the default
    assert begun[0] == pytest.approx(expected.item(), rel=1e-4)  # float32 there: some 1e-6 of a cosine, times 30
    assert begun[0] != pytest.approx(afresh[0], rel=0.01)


def test_a_restarted_job_goes_on_from_its_own_snapshot_alone(
    run: Callable[..., Losses], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--max_iterations", "1", out=tmp_path / "before")
    begin = ["--init_from", str(tmp_path / "before" / "snapshots" / "tiny_1.pt"), "--snap_to_resume", "auto"]
    whole = run(*begin, "--max_iterations", "4", out=tmp_path / "whole")
    run(*begin, "--max_iterations", "2", out=tmp_path / "parts")
    printed(capsys)
    assert run(*begin, "--max_iterations", "4", out=tmp_path / "parts") == whole
    assert "tiny_1.pt has no effect: the run is resumed from" in printed(capsys)
    assert same_weights(weights(tmp_path / "parts", 4), weights(tmp_path / "whole", 4))


def ancestor_file(folder: Path, names: list[str]) -> tuple[Path, dict[str, torch.Tensor], torch.Tensor]:
    """face_recognition.pytorch's snapshot for 32 × 32 images and embeddings of 16, and the list of its classes."""
    tensors = filled(layout_001("mobilenet", 16) | {"dw_pool.weight": (512, 1, 2, 2)})
    head = torch.rand(16, len(names))
    torch.save({"epoch": 1, "state_dict": tensors | {"fc_angular.weight": head}}, folder / "001.pt")
    (folder / "names.txt").write_text("\n".join(names))
    return folder / "001.pt", tensors, head.T


def test_a_run_begins_with_another_systems_file_and_the_rows_of_the_identities_in_both(
    run: Callable[..., Losses], sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = sorted({path.name for path in (sample_data / "vggface2/train").iterdir()})
    path, tensors, head = ancestor_file(tmp_path, ["stranger", *reversed(ours[:5])])
    run(*STILL, "--init_from", str(path), out=tmp_path / "fresh")
    assert "lacks class names; give --init_identities" in printed(capsys)
    run(*STILL, "--init_from", str(path), "--init_identities", str(tmp_path / "names.txt"))
    assert "head: 5 of 12 classes start from the file's, 7 are new" in printed(capsys)
    wanted = read_weights(path).backbone
    assert len(wanted) == len(tensors)
    assert same_weights(weights(tmp_path, 1), wanted)
    begun, names = read_head(tmp_path / "snapshots/tiny_1.state")
    fresh, _ = read_head(tmp_path / "fresh/snapshots/tiny_1.state")
    assert names is not None and sorted(names) == ours
    for row, name in enumerate(names):
        assert torch.equal(begun[row], head[5 - ours.index(name)] if name in ours[:5] else fresh[row])


def test_what_does_not_fit_is_refused_before_anything_is_written_unless_partial(
    run: Callable[..., Losses], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*STILL, out=tmp_path / "before")
    path = str(tmp_path / "before" / "snapshots" / "tiny_1.pt")
    other = ["--init_from", path, "--embed_size", "8", "--input_size", "64"]
    with pytest.raises(InputError) as refusal:
        run(*STILL, *other)
    text = str(refusal.value)
    assert "embeddings of 16, a head of 12 classes: doesn't fit this run's network\nof another shape: 2" in text
    assert "pool.0.weight is [512, 1, 2, 2] there, [512, 1, 4, 4] here" in text
    assert "it is for images of 32×32" in text
    assert not (tmp_path / "snapshots").exists()
    run(*STILL, *other, "--partial")
    told = printed(capsys)
    assert "embedding.weight is [16, 512, 1, 1] there, [8, 512, 1, 1] here" in told
    assert "head: all classes start from initial values: the file's have 16 numbers, not 8" in told
    before, after = weights(tmp_path / "before", 1), weights(tmp_path, 1)
    changed = {key for key, tensor in before.items() if after[key].shape != tensor.shape}
    assert changed == {"pool.0.weight", "embedding.weight"}
    for key in before.keys() - changed:
        assert torch.allclose(after[key], before[key], rtol=0, atol=1e-20), key  # a bias of 0 has moved by 1e-30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--init_from", "absent.pt"], "absent.pt: can't be read: No such file"),
        (["--init_from", "list.txt"], "list.txt: damaged, or not a file of weights"),
        (["--init_from", "{file}", "--init_identities", "absent.txt"], "absent.txt: can't be read"),
        (["--init_from", "{file}", "--init_identities", "list.txt"], "1 identity for a head of 6 classes"),
        (["--init_from", "{file}", "--model", "rmnet"], "mobilenet (face_recognition.pytorch), "),
    ],
)
def test_refusals_are_plain(
    options: list[str], said: str, run: Callable[..., Losses], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _, _ = ancestor_file(tmp_path, list("abcdef"))
    Path("list.txt").write_text("text\n")
    with pytest.raises(InputError) as refusal:
        run(*(option.format(file=path) for option in options))
    assert said in str(refusal.value)
