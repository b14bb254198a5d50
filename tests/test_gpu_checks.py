"""tests/gpu.sh: its verdicts and tables; all of it on the CPU; its spine with the oldest torch that is supported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpu.checks import CHECKS
from tests.gpu.report import write_report
from tests.gpu.runner import Result

OLDEST = {"torch": "2.11.0", "torchvision": "0.26.0"}
SPINE = ["losses-of-training", "resume", "every-loss", "evaluation", "ranks"]  # trains, resumes, shards, scores


def gpu_sh(out: Path, *options: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "tests/gpu.sh"), "--device", "cpu", *options, "--", str(out)]
    environment = os.environ | {"PYTHON": python}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def finding(kind: str, end: str) -> dict[str, str]:
    return {"kind": kind, "text": "a text", "value": "1", "end": end}


@pytest.mark.parametrize(
    ("problem", "findings", "passed"),
    [
        ("", [finding("claim", "ok"), finding("metric", "s"), finding("skip", "not checked here")], True),
        ("", [finding("claim", "ok"), finding("claim", "FAILED")], False),
        ("not done after 60 s", [finding("claim", "ok")], False),
        ("ended with status -11", [], False),
    ],
)
def test_a_check_passes_when_it_ends_and_all_it_claims_holds(
    problem: str, findings: list[dict[str, str]], passed: bool, tmp_path: Path
) -> None:
    result = Result(CHECKS["head"], 1.0, problem, findings)
    assert result.passed == passed
    write_report([result], "cpu", tmp_path, 2.0)
    assert json.loads((tmp_path / "gpu.json").read_text())["checks"]["head"]["passed"] == passed
    row = (tmp_path / "gpu.md").read_text().splitlines()[-1]
    assert row.startswith("| `head`: ") and row.count("|") == 4
    assert ("| passed" in row) == passed and problem in row


def test_one_check_by_name_writes_the_tables(
    tmp_path: Path, real_or_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "faces-mini").symlink_to(real_or_sample)
    monkeypatch.setenv("FR_SHARED_DATA", str(shared))
    done = gpu_sh(tmp_path / "out", "--only", "damaged-files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads((tmp_path / "out/gpu.json").read_text())["checks"]) == ["damaged-files"]
    assert "the device refuses what the CPU refuses" in (tmp_path / "out/gpu.md").read_text()


def test_a_machine_without_a_gpu_is_told_what_to_do(tmp_path: Path) -> None:
    done = gpu_sh(tmp_path / "out", "--device", "cuda")
    assert done.returncode == 2
    advice = "--device cpu runs what a CPU can check"
    assert done.stderr == f"tests/gpu.sh: --device cuda: torch finds no GPU here; {advice}\n"


@pytest.mark.thorough
def test_every_check_runs_on_the_cpu(tmp_path: Path) -> None:
    done = gpu_sh(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert list(checks) == list(CHECKS)


@pytest.mark.thorough
def test_the_spine_runs_with_the_oldest_torch(tmp_path: Path) -> None:
    pins = (ROOT / "requirements.txt").read_text()
    for name, version in OLDEST.items():
        pins, count = re.subn(rf"^{name}==\S+", f"{name}=={version}", pins, flags=re.MULTILINE)
        assert count == 1
    (tmp_path / "requirements.txt").write_text(pins)
    python = str(tmp_path / "venv/bin/python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-qq", "-r", tmp_path / "requirements.txt"], check=True)
    done = gpu_sh(tmp_path / "out", "--only", *SPINE, python=python)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out/gpu.json").read_text())["torch"].startswith(OLDEST["torch"])
