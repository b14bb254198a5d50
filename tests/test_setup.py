"""init_venv.sh, tests/run.sh, .ci/run and the pins, without network or pip.

A stub interpreter replaces Python: it answers version questions through the real one with
sys.version_info replaced, "makes" an environment by copying itself there, and logs what pip was asked for.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
BASE_PYTHON = sys._base_executable  # type: ignore[attr-defined]  # the one below venv/, which is itself no venv
REQUIREMENTS = [f"requirements{extra}.txt" for extra in ("", "-dev", "-timm", "-detect")]

STUB = """#!/bin/bash
here=$(dirname "$(readlink -f "$0")")
case "$1 $2" in
    -c\\ *) exec {python} -I -c 'import sys
sys.version_info = {version}
if {no_venv}: sys.modules["ensurepip"] = None
exec(sys.argv[1])' "$2" ;;
    "-m venv") echo "venv ${{*:3}}" >>{log}; to=${{@: -1}}
        [[ $here == "$to/bin" ]] || {{ rm -rf "$to"; mkdir -p "$to/bin"; cp "$0" "$to/bin/python"; }} ;;
    "-m pip") echo "pip ${{*:3}}" >>{log}; [[ ! -e {log}.kill ]] || kill -9 $PPID ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of init_venv.sh and its requirement files, with a space in the path."""
    copy = tmp_path / "a checkout"
    copy.mkdir()
    for name in ("init_venv.sh", *REQUIREMENTS):
        shutil.copy(ROOT / name, copy)
    return copy


def stub(checkout: Path, version=(3, 11, 7), no_venv=False, name="stub") -> Path:
    path = checkout.parent / name
    path.write_text(
        STUB.format(python=BASE_PYTHON, version=version, no_venv=no_venv, log=checkout.parent / "log")
    )
    path.chmod(0o755)
    return path


def init(checkout: Path, *options) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(checkout / "init_venv.sh"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=checkout.parent, timeout=60)


def calls(checkout: Path) -> list[str]:
    """Requests to the stub since the last look."""
    log = checkout.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def refused(result: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Test if the run ended with exit code 2 and one line that holds all the words."""
    one_line = result.stderr.endswith("\n") and result.stderr.count("\n") == 1 and result.stdout == ""
    return result.returncode == 2 and one_line and all(word in result.stderr for word in words)


def test_unsupported_python_is_refused_in_one_line_with_exit_code_2(checkout):
    result = init(checkout, "--python", stub(checkout, (3, 9, 18)))
    assert refused(result, "3.9.18", "3.11 to 3.14", "--python"), result
    assert not (checkout / "venv").exists()


def test_python_without_venv_module_is_refused(checkout):
    result = init(checkout, "--python", stub(checkout, no_venv=True))
    assert refused(result, "no venv module", "python3.11-venv"), result


def test_python_that_does_not_run_is_refused(checkout):
    assert refused(init(checkout, "--python", "/no/such/python"), "/no/such/python")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--with", "deb"], ["--with", "'deb'"]),
        (["--with", "dev,deb"], ["--with", "'deb'"]),
        (["--with", ""], ["--with", "value"]),
        (["--cuda", "11"], ["--cuda", "'11'"]),
        (["--cuda"], ["--cuda", "value"]),
        (["--nonsense"], ["'--nonsense'", "--help"]),
    ],
)
def test_unknown_option_or_value_is_refused(checkout, options, words):
    assert refused(init(checkout, *options), *words)
    assert not (checkout / "venv").exists()


def test_help_names_every_option(checkout):
    result = init(checkout, "--help")
    assert result.returncode == 0 and result.stderr == ""
    for option in ("--cuda 13|12", "--with dev", "--python PYTHON", "--help"):
        assert option in result.stdout


@pytest.mark.parametrize(
    "version", ["2.7.18", "3.10.14", "3.11.0", "3.12.4", "3.13.9", "3.14.0", "3.14.1", "3.14.2", "3.15.0"]
)
def test_script_accepts_the_pythons_of_requires_python(checkout, version):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = stub(checkout, tuple(map(int, version.split("."))))
    accepted = init(checkout, "--python", python).returncode == 0
    assert accepted == SpecifierSet(project["requires-python"]).contains(version)


def test_first_run_installs_and_second_does_nothing(checkout):
    first = init(checkout, "--python", stub(checkout))
    assert first.returncode == 0, first.stderr
    assert "driver >= 580" in first.stdout and "venv/bin/activate" in first.stdout
    venv, pip = calls(checkout)
    assert venv == f"venv --clear {checkout}/venv"
    assert pip.endswith(f"--requirement={checkout}/requirements.txt")
    second = init(checkout)
    assert second.returncode == 0 and "up to date" in second.stdout
    assert calls(checkout) == []


def test_extras_are_added_without_starting_over_and_remembered(checkout):
    init(checkout, "--python", stub(checkout))
    calls(checkout)
    init(checkout, "--with", "dev")
    (pip,) = calls(checkout)
    assert pip.endswith(f"--requirement={checkout}/requirements-dev.txt")
    assert "up to date" in init(checkout).stdout
    (checkout / "requirements.txt").write_text("numpy==2.4.5\n")
    init(checkout)
    (pip,) = calls(checkout)
    assert "requirements.txt" in pip and "requirements-dev.txt" in pip


@pytest.mark.parametrize("extras", ["faiss", "faiss,dev", "dev,faiss"])
def test_an_extra_of_older_versions_in_the_stamp_is_forgotten(checkout, extras):
    init(checkout, "--python", stub(checkout), "--with", "dev")
    stamp = checkout / "venv" / ".stamp"
    stamp.write_text(stamp.read_text().replace("extras dev", f"extras {extras}"))
    calls(checkout)
    result = init(checkout)
    assert result.returncode == 0, result.stderr
    (pip,) = calls(checkout)
    assert "faiss" not in pip and ("requirements-dev.txt" in pip) == ("dev" in extras)
    assert "up to date" in init(checkout).stdout
    assert refused(init(checkout, "--with", "faiss"), "'dev', 'timm', 'detect' and 'remote', not 'faiss'")


def test_the_detector_is_installed_without_what_it_asks_for(checkout):
    result = init(checkout, "--python", stub(checkout), "--with", "detect,timm")
    assert result.returncode == 0, result.stderr
    _, first, second = calls(checkout)
    assert "--no-deps" not in first and "requirements-detect.txt" not in first and "requirements-timm.txt" in first
    assert second.endswith(f"--no-deps --requirement={checkout}/requirements-detect.txt")
    assert "up to date" in init(checkout, "--with", "detect").stdout
    (checkout / "requirements-detect.txt").write_text("facenet-pytorch==2.6.1\n")
    init(checkout)
    assert len(calls(checkout)) == 2


def test_interrupted_run_is_started_over_with_its_options(checkout):
    kill = checkout.parent / "log.kill"
    kill.touch()
    assert init(checkout, "--python", stub(checkout), "--with", "dev", "--cuda", "12").returncode != 0
    calls(checkout)
    kill.unlink()
    assert init(checkout, "--python", stub(checkout)).returncode == 0
    venv, pip = calls(checkout)
    assert venv == f"venv --clear {checkout}/venv"
    assert "cu126" in pip and "requirements-dev.txt" in pip


def test_another_python_cuda_or_place_starts_over(checkout):
    init(checkout, "--python", stub(checkout))
    init(checkout, "--python", stub(checkout, (3, 12, 1), name="stub312"))
    assert len(calls(checkout)) == 4
    init(checkout, "--cuda", "12")
    assert len(calls(checkout)) == 2
    moved = checkout.rename(checkout.with_name("moved"))
    init(moved, "--python", stub(moved, (3, 12, 1)))
    assert len(calls(moved)) == 2


def test_cuda_12_swaps_the_cuda_builds_and_nothing_else(checkout):
    result = init(checkout, "--python", stub(checkout), "--cuda", "12")
    assert "driver >= 525" in result.stdout
    pip = calls(checkout)[-1]
    assert "--extra-index-url https://download.pytorch.org/whl/cu126" in pip
    assert pip.endswith(f"--requirement={checkout}/venv/requirements-cuda12.txt")
    before = pins("requirements.txt")
    after = dict(PIN.findall((checkout / "venv/requirements-cuda12.txt").read_text()))
    expected = before | {"torch": before["torch"] + "+cu126", "torchvision": before["torchvision"] + "+cu126"}
    expected["nvidia-dali-cuda120"] = expected.pop("nvidia-dali-cuda130")
    assert after == expected


PIN = re.compile(r"^([A-Za-z0-9_-]+)(?:\[[a-z]+\])?==([0-9][0-9A-Za-z.+]*)(?:  # .+)?$", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / name).read_text()))


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_is_pinned(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    assert lines and [line for line in lines if not PIN.fullmatch(line)] == []


def test_ci_calls_run_sh_from_the_root_and_takes_its_exit_code(tmp_path):
    (tmp_path / ".ci").mkdir()
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")  # with its mode: it must be executable
    (tmp_path / "tests/run.sh").write_text('pwd; echo "$@"; exit 7\n')
    (tmp_path / "chromedriver").touch(mode=0o755)  # or it would install one
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run([tmp_path / ".ci/run"], capture_output=True, text=True, cwd="/", env=os.environ | path)
    assert (result.returncode, result.stdout.strip()) == (7, f"{tmp_path}\n--thorough")


@pytest.mark.parametrize("failing", [None, "init_venv.sh", "ruff", "mypy", "pytest"])
def test_run_sh_stops_at_the_first_failing_stage(tmp_path, failing):
    bin_dir = tmp_path / "venv/bin"
    bin_dir.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/run.sh", tmp_path / "tests")
    stages = [tmp_path / "init_venv.sh", bin_dir / "ruff", bin_dir / "mypy", bin_dir / "pytest"]
    for path in stages:
        path.write_text(f"#!/bin/bash\necho ran {path.name} $*\nexit {3 if path.name == failing else 0}\n")
        path.chmod(0o755)
    command = ["bash", tmp_path / "tests/run.sh", "--thorough", "-k", "losses or head"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/")
    ran = [line for line in result.stdout.splitlines() if line.startswith("ran ")]
    tests = "ran pytest --numprocesses 2 --dist loadfile --thorough -k losses or head"
    expected = ["ran init_venv.sh --with dev,detect,remote", "ran ruff check .", "ran mypy", tests]
    last = len(stages) if failing is None else 1 + [path.name for path in stages].index(failing)
    assert ran == expected[:last]
    assert result.returncode == (0 if failing is None else 3)
