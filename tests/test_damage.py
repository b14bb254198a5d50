"""Images that can't be used: a training replaces them exactly, says so, and ends in order when they are many."""

import gc
import io
import re
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from fr.checkpoint import snapshot
from fr.console import Received
from fr.data import pipeline, usable
from fr.data.bad_images import BadImages, stand_ins
from fr.data.faces import Faces, LabelledFaces
from fr.data.order import Order
from fr.data.pipeline import FaceStream, Undecodable, plain_stream
from fr.data.samples import plain_batches
from fr.data.usable import usable_batches
from fr.errors import InputError, run_plainly
from fr.train.loop import _asked, _reason_to_end
from fr.train.monitor import Silent
from tests.builders.damaged_images import (
    BATCH,
    CPU,
    EACH,
    PEOPLE,
    SMALL,
    UNUSABLE,
    USABLE,
    Pixels,
    as_if_listed,
    assert_equal,
    batches,
    encoded,
    faces,
    picture,
    reported,
    stream,
)
from tests.builders.ranks import launch_forked
from tests.conftest import (
    TINY,
    Losses,
    data_options,
    folders,
    losses,
    one_layer,
    records,
    same_weights,
    validation_options,
    weights,
)

__all__ = ["faces"]  # a fixture

# --- every kind of damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*UNUSABLE, "missing", "folder", "link to itself", "no permission"])
def test_an_unusable_photograph_is_replaced_as_if_the_list_had_said_so(
    kind: str, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(faces.path(6))
    expected = batches(as_if_listed(faces, {6: 7}))
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "no permission":  # which the tests' own user may well have
        refuse_to_read(path, monkeypatch)
    elif kind != "missing":
        path.write_bytes(UNUSABLE[kind])
    bad = BadImages(1)
    assert_equal(batches(faces, bad), expected)
    (problem,) = reported(bad)  # once in two epochs
    assert problem.startswith(f"{path}: can't be {'decoded' if kind in UNUSABLE else 'read'}: ")


def refuse_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Faces.read

    def refused(faces: Faces, index: int) -> Pixels:
        if faces.path(index) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return read(faces, index)

    monkeypatch.setattr(Faces, "read", refused)


@pytest.mark.parametrize("kind", USABLE)
def test_an_unusual_photograph_is_taken_for_what_it_shows(kind: str, faces: LabelledFaces) -> None:
    """Landmarks are in the pixels of the file: EXIF's orientation isn't applied."""
    path = Path(faces.path(6))
    data = USABLE[kind](picture(6))
    with Image.open(io.BytesIO(data)) as image:
        shown = picture(6) if kind == "16 bit" else np.asarray(image.convert("RGB"))
    path.write_bytes(encoded(shown, "PNG"))
    expected = batches(faces)
    path.write_bytes(data)
    found = batches(faces)  # none reported
    for (images, _), (expected_images, _) in zip(found, expected, strict=True):
        # Two decoders of JPEG or of another number of channels may round to different levels, of 255.
        assert (images - expected_images).abs().max() <= 1.01 / 255


def test_a_photograph_of_one_pixel_is_black_where_its_landmarks_are(faces: LabelledFaces) -> None:
    Path(faces.path(6)).write_bytes(encoded(np.full((1, 1, 3), 255, dtype=np.uint8)))
    order = Order(len(faces), BATCH, seed=3)
    (row,) = np.flatnonzero(np.concatenate([order.share(turn, 0, 1).indices for turn in (0, 1)]) == 6).tolist()
    images, labels = batches(faces)[row // BATCH]
    assert labels[row % BATCH] == 1
    assert not images[row % BATCH].any()


# --- exactness --------------------------------------------------------------------------------------------------------

# Whole identity p1, two in a row of p2 up to its end, one of p3.
LOST = {4: 8, 5: 9, 6: 8, 7: 8, 10: 8, 11: 8, 13: 14}


def lose(faces: LabelledFaces) -> None:
    kinds = list(UNUSABLE.values())
    for number, index in enumerate(LOST):
        Path(faces.path(index)).write_bytes(kinds[number])


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_batches_with_replacements_are_bit_equal_for_any_ranks_and_accumulation(
    world: int, accumulate: int, faces: LabelledFaces
) -> None:
    expected = batches(as_if_listed(faces, LOST))
    lose(faces)
    bad = BadImages(len(LOST))
    assert_equal(batches(faces, bad, world, accumulate), expected)
    assert len(reported(bad)) == len(LOST)


def test_an_identity_without_a_usable_photograph_gives_its_places_to_another_with_its_label(
    faces: LabelledFaces,
) -> None:
    lose(faces)
    labels = torch.cat([labels for _, labels in batches(faces, BadImages(len(LOST)))])
    assert labels.bincount(minlength=PEOPLE).tolist() == [2 * 4, 0, 2 * 8, 2 * 4]  # two epochs


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_resumed_run_that_meets_the_photographs_anew_sees_the_same(first: int, faces: LabelledFaces) -> None:
    lose(faces)
    whole = batches(faces, BadImages(len(LOST)))
    tail = list(stream(faces, BadImages(len(LOST)), range(first, 4)))
    assert_equal(tail, whole[first:])


def test_what_stands_at_a_place_does_not_depend_on_what_was_met_before(faces: LabelledFaces) -> None:
    """The decoder takes of a truncated TIFF the regions above the cut and no others: the file serves where the
    face isn't turned much, also after it was found bad in another place or would be so in the first of its batch."""
    iterations = range(16)
    whole = encoded(picture(7), "TIFF", tiffinfo={278: 8})  # eight rows a strip
    Path(faces.path(7)).write_bytes(whole)
    used, replaced = (list(stream(as_if_listed(faces, instead), BadImages(0), iterations)) for instead in ({}, {7: 4}))
    Path(faces.path(7)).write_bytes(whole[: -8 * 64 * 3])
    bad = BadImages(1)
    found = list(stream(faces, bad, iterations))
    assert len(reported(bad)) == 1
    kinds = ""
    for (images, _), (intact, _), (other, _) in zip(found, used, replaced, strict=True):
        if not torch.equal(intact, other):  # the image is in this batch
            kinds += "used " if torch.equal(images, intact) else "replaced "
            assert torch.equal(images, intact) or torch.equal(images, other)
    assert "used" in kinds.split("replaced ", 1)[1]
    for first in iterations[1:]:
        assert_equal(list(stream(faces, BadImages(1), range(first, first + 1))), found[first : first + 1])


def test_a_photograph_that_vanishes_in_mid_run_is_replaced_from_then_on(faces: LabelledFaces) -> None:
    iterations = range(12)
    (index, *_) = Order(len(faces), BATCH, seed=3).share(0, 0, 1).indices.tolist()
    stand_in = index - index % EACH + (index + 1) % EACH
    before = list(stream(faces, BadImages(0), iterations))
    after = list(stream(as_if_listed(faces, {index: stand_in}), BadImages(0), iterations))
    bad = BadImages(1)
    running = stream(faces, bad, iterations)
    found = [next(running)]
    Path(faces.path(index)).unlink()
    found += list(running)
    assert_equal(found[:2], before[:2])
    # Up to eight batches, of epochs 0 to 3, may have been read when the file vanished: four each by stream and graph.
    assert_equal(found[8:], after[8:])
    assert reported(bad) == [f"{faces.path(index)}: can't be read: No such file or directory"]


def test_a_disk_that_fails_once_leaves_no_trace(faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(faces)
    read = Faces.read
    failed: list[int] = []

    def failing_once(faces: Faces, index: int) -> Pixels:
        if index == 6 and not failed:
            failed.append(index)
            raise OSError(5, "Input/output error")
        return read(faces, index)

    monkeypatch.setattr(Faces, "read", failing_once)
    assert_equal(batches(faces), expected)
    assert failed


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_an_unreadable_file_fails_its_batch_and_not_the_graph(content: bytes | None, faces: LabelledFaces) -> None:
    indices = np.arange(12)
    expected = list(plain_stream(faces, indices, 4, SMALL, CPU))
    for path in map(Path, map(faces.path, (4, 5, 6, 7))):  # a batch without any image
        path.unlink() if content is None else path.write_bytes(content)
    found = FaceStream(plain_batches(faces, indices, 4), 4, SMALL, CPU)
    assert torch.equal(next(found)[0], expected[0])
    with pytest.raises(Undecodable) as caught:
        next(found)
    why = "read: No such file or directory" if content is None else "decoded: it is empty"
    assert caught.value.rows == {row: f"{faces.path(4 + row)}: can't be {why}" for row in range(4)}
    assert torch.equal(next(found)[0], expected[2])
    assert not found.broken


def test_what_was_read_ahead_of_an_unreadable_file_is_not_read_again(
    faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index, *others) = Order(len(faces), BATCH, seed=3).share(0, 0, 1).indices.tolist()
    Path(faces.path(index)).unlink()
    reads: list[int] = []
    read = Faces.read

    def counted(faces: Faces, index: int) -> Pixels:
        reads.append(index)
        return read(faces, index)

    monkeypatch.setattr(Faces, "read", counted)
    list(stream(faces, BadImages(1), range(2)))
    later = set(range(len(faces))) - {index, *others}
    assert all(reads.count(row) == 1 for row in later - {index - index % EACH + (index + 1) % EACH})


@pytest.mark.parametrize("kind", ["header only", "text"])  # refused before the graph, and by it
def test_a_failed_graph_does_not_wait_for_the_garbage_collector(
    kind: str, faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    plain = FaceStream.__init__

    def noted(self: FaceStream, *arguments: Any, **named: Any) -> None:
        plain(self, *arguments, **named)
        alive.extend([weakref.ref(self), weakref.ref(self._graph)])

    monkeypatch.setattr(FaceStream, "__init__", noted)
    Path(faces.path(3)).write_bytes(UNUSABLE[kind])
    gc.collect()
    gc.disable()
    try:
        running = stream(faces, BadImages(1))
        for _ in range(4):  # each image twice
            next(running)
            assert len([one for one in alive if one()]) == 2  # the one in use
        del running
        assert len(list(usable_batches(plain_batches(faces, np.arange(16), 4), 4, SMALL, CPU))) == 4
        assert len(alive) > 8 and not any(one() for one in alive)
    finally:
        gc.enable()


def test_usable_batches_name_every_problem_once_and_keep_the_order(faces: LabelledFaces) -> None:
    expected = torch.cat(list(plain_stream(faces, np.arange(16), 4, SMALL, CPU)))
    Path(faces.path(1)).unlink()
    for index in (2, 13):
        Path(faces.path(index)).write_bytes(UNUSABLE["garbage"])
    for index in range(4, 8):
        Path(faces.path(index)).write_bytes(b"")
    found = list(usable_batches(plain_batches(faces, np.arange(16), 4), 4, SMALL, CPU))
    good = [0, 3, 8, 9, 10, 11, 12, 14, 15]
    assert [indices.tolist() for _, indices, _ in found] == [[0, 3], [], [8, 9, 10, 11], [12, 14, 15]]
    assert torch.equal(torch.cat([images for images, _, _ in found]), expected[good])
    assert [sorted(problems) for _, _, problems in found] == [[1, 2], [4, 5, 6, 7], [], [13]]


def test_usable_batches_pass_a_failure_on_that_comes_before_any_batch(
    faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usable, "FaceStream", lambda *_, **__: iter(failing()))

    def failing() -> Iterator[None]:
        raise Undecodable({}, "no device")
        yield

    with pytest.raises(Undecodable, match="DALI failed: no device"):
        list(usable_batches(iter([]), 4, SMALL, CPU))


def test_a_failure_that_no_photograph_explains_ends_the_run(
    faces: LabelledFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(faces.path(6)).write_bytes(UNUSABLE["garbage"])
    monkeypatch.setattr(pipeline.FaceStream, "_search", lambda *_: {})
    with pytest.raises(InputError, match="DALI failed: "):
        batches(faces, BadImages(100))


def test_verification_names_a_photograph_instead_of_replacing_it(faces: LabelledFaces) -> None:
    Path(faces.path(6)).write_bytes(UNUSABLE["GIF"])
    Path(faces.path(7)).unlink()
    with pytest.raises(InputError) as caught:
        list(plain_stream(faces, np.arange(16), 4, SMALL, CPU))
    assert caught.value.problems == (
        f"{faces.path(6)}: can't be decoded: cut off, damaged, or of an unknown format",
        f"{faces.path(7)}: can't be read: No such file or directory",
    )


def test_stand_ins_are_the_rest_of_the_identity_and_then_the_next_ones() -> None:
    labels = np.array([0, 1, 0, 2, 0, 1])
    assert list(stand_ins(labels, 2)) == [2, 4, 0, 5, 1, 3]
    assert list(stand_ins(labels, 3)) == [3, 0, 2, 4, 1, 5]
    assert list(stand_ins(np.array([0, 2, 2]), 2)) == [2, 1, 0]  # a label without images


# --- too many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 3, 6])
def test_one_more_than_max_bad_images_ends_the_stream(limit: int, faces: LabelledFaces) -> None:
    lose(faces)
    with pytest.raises(InputError, match=f"bad images: {limit + 1}, and --max_bad_images is {limit}; the last: /"):
        batches(faces, BadImages(limit))


@pytest.mark.parametrize(
    ("limit", "message"), [(1000, "no image of the list can be decoded"), (10, "bad images: 11, ")]
)
def test_a_list_of_bad_photographs_alone_ends_the_run_soon(limit: int, message: str, faces: LabelledFaces) -> None:
    for index in range(len(faces)):
        Path(faces.path(index)).write_bytes(b"")
    start = time.monotonic()
    with pytest.raises(InputError, match=message):
        batches(faces, BadImages(limit))
    assert time.monotonic() - start < 20  # about one; two small graphs an image


# --- through the real entry -------------------------------------------------------------------------------------------

SPOILT = 3  # of the 96 of the sample data: an epoch of 6 iterations meets all of them
RUN = ["--max_iterations", "12"]


@pytest.fixture(scope="module")
def spoilt_data(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The sample data with some images that can't be used, and the paths of those."""
    data = tmp_path_factory.mktemp("spoilt") / "data"
    shutil.copytree(sample_data, data)
    names = (data / "vggface2/meta/train_list.txt").read_text().split()
    paths = [data / "vggface2/train" / names[index] for index in (20, 21, 70)]
    paths[0].write_bytes(b"")
    paths[1].unlink()
    paths[2].write_bytes(UNUSABLE["GIF"])
    return data, [str(path) for path in paths]


def test_a_run_names_and_counts_bad_photographs_and_resumes_to_the_last_bit(
    spoilt_data: tuple[Path, list[str]],
    run_small: Callable[..., Losses],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, paths = spoilt_data
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_small(*data_options(data), *RUN, "--accumulate", "2", out=whole)
    printed = capsys.readouterr().err
    for path in paths:
        (line,) = [line for line in printed.splitlines() if path in line]
        assert re.search(r": can't be (read|decoded): .*; another image stands in$", line)
    counts = [record["bad_images"] for record in records(whole / "logs")]
    assert counts == sorted(counts)
    assert counts[0] < SPOILT == counts[5] == counts[-1]
    board = EventAccumulator(str(whole / "logs"))
    board.Reload()
    assert [event.value for event in board.Scalars("Data/bad_images")] == counts

    run_small(*data_options(data), "--max_iterations", "8", "--accumulate", "2", out=parts)
    resume = ["--snap_to_resume", "auto", "--accumulate", "2"]
    assert run_small(*data_options(data), *RUN, *resume, out=parts) == expected
    assert same_weights(weights(parts, 12), weights(whole, 12))


def test_too_many_end_the_run_with_status_2_and_a_snapshot_to_go_on_from(
    spoilt_data: tuple[Path, list[str]],
    run_small: Callable[..., Losses],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, _ = spoilt_data
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*TINY, *data_options(data), *RUN]
    expected = run_small(*options, out=whole)
    monkeypatch.setattr(train, "build_model", one_layer)
    monkeypatch.setattr(sys, "argv", ["train.py", *options, *folders(parts), "--max_bad_images", str(SPOILT - 1)])
    with pytest.raises(SystemExit) as end:
        run_plainly("train.py", train.main)
    assert end.value.code == 2
    done = len(losses(parts))
    assert 1 <= done < 6
    assert snapshot.newest(parts / "snapshots", "tiny") == parts / "snapshots" / f"tiny_{done}.pt"
    printed = capsys.readouterr().err
    assert re.search(r"^train\.py: bad images: 3, and --max_bad_images is 2; the last: /", printed, re.MULTILINE)
    assert "Traceback" not in printed
    assert run_small(*options, "--snap_to_resume", "auto", out=parts) == expected


def found_by_ranks(limit: int) -> list[tuple[list[str], int, str]]:
    """Reports to each rank when rank r finds sample 5 and sample r, and after that sample 5 again and 10 + r."""
    bad, told = BadImages(limit), []
    rank = torch.distributed.get_rank()
    for found in ((5, rank), (5, 10 + rank)):
        for index in found:
            bad.report(index, f"{index} is bad")
        told.append((bad.share(), bad.count, str(bad.excess() or "")))
    return told


def test_ranks_tell_each_other_what_they_found_and_count_it_once(run_distributed: Callable[..., list]) -> None:
    for told in run_distributed(2, found_by_ranks, 4):
        assert told == [
            (["0 is bad", "1 is bad", "5 is bad"], 3, ""),
            (["10 is bad", "11 is bad"], 5, "bad images: 5, and --max_bad_images is 4; the last: 11 is bad"),
        ]


def end_of_rank(failing: int) -> str:
    """Error of a rank when the `failing` one can't go on."""
    failure = InputError("its disk is gone") if torch.distributed.get_rank() == failing else None
    bad = BadImages(0)
    return str(_reason_to_end(_asked([], failure, Received(), bad), bad, Silent())[1])


def test_a_failure_of_one_rank_is_told_by_all(run_distributed: Callable[..., list]) -> None:
    assert run_distributed(2, end_of_rank, 1) == ["its disk is gone"] * 2


def test_two_ranks_name_and_count_each_photograph_once_and_see_what_one_sees(
    spoilt_data: tuple[Path, list[str]], run: Callable[..., Losses], tmp_path: Path
) -> None:
    data, paths = spoilt_data
    options = [*data_options(data), "--max_iterations", "7", "--freeze_bn", "true"]
    one = run(*options, out=tmp_path / "one")
    result = launch_forked("train.py", *TINY, *options, *folders(tmp_path / "two"))
    assert result.returncode == 0, result.stderr
    for path in paths:
        assert result.stderr.count(path) == 1
    assert records(tmp_path / "two" / "logs")[-1]["bad_images"] == SPOILT
    # Sums in another order: some 1e-7 a step of float32, kept small since nothing here magnifies it.
    assert losses(tmp_path / "two") == pytest.approx(one, rel=1e-4)


def test_a_validation_still_needs_every_photograph(
    sample_data: Path, run_small: Callable[..., Losses], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sample_data / "lfw", tmp_path / "lfw")
    photograph = sorted((tmp_path / "lfw").rglob("*.jpg"))[0]
    photograph.write_bytes(UNUSABLE["GIF"])
    run_small(*validation_options(tmp_path), out=tmp_path)
    assert f"iteration 3: no validation: {photograph}: can't be decoded: " in capsys.readouterr().err
    assert [record["bad_images"] for record in records(tmp_path / "logs")] == [0, 0, 0]
