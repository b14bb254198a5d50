"""Which snapshot a run goes on from."""

from pathlib import Path

import pytest

from fr.checkpoint.resuming import candidates
from fr.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, one_rank: None) -> Path:
    for iteration in (5, 20, 100):
        (tmp_path / f"net_{iteration}.pt").touch()
        (tmp_path / f"net_{iteration}.state").mkdir()
    return tmp_path


def numbers(paths: list[Path]) -> list[int]:
    return [int(path.stem.removeprefix("net_")) for path in paths]


def test_auto_is_the_newest_first_and_a_name_is_that_alone(folder: Path) -> None:
    assert numbers(candidates("auto", folder, "net")) == [100, 20, 5]
    assert candidates("auto", folder, "other") == []
    assert candidates(str(folder / "net_20.pt"), folder, "net") == [folder / "net_20.pt"]
    assert candidates("", folder, "net") == []


def test_a_restarted_job_goes_on_from_its_newest_whatever_it_began_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert numbers(candidates("", folder, "net")) == [100, 20, 5]
    assert numbers(candidates("auto", folder, "net")) == [100, 20, 5]
    assert candidates("elsewhere/net_3.pt", folder, "net")[-1] == Path("elsewhere/net_3.pt")
    assert candidates("elsewhere/net_3.pt", folder, "other") == [Path("elsewhere/net_3.pt")]  # none written yet


@pytest.mark.parametrize("wish", ["", "net_20.pt"])
def test_a_job_that_may_be_restarted_refuses_to_begin_among_snapshots_of_an_earlier_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(InputError, match=r"net_100\.pt is an earlier run's, .* --snap_to_resume auto"):
        candidates(wish, folder, "net")
    assert numbers(candidates("auto", folder, "net")) == [100, 20, 5]
    assert candidates(wish, folder, "other") == ([Path(wish)] if wish else [])
