"""The installed package: its commands are the scripts, its dependencies admit the pins, it needs no checkout."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from fr.options import commands
from fr.options.definitions import train_options
from tests.conftest import REQUIRED, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = ("--identities", "12", "--lfw_identities", "40", "--pairs_per_fold", "2", "--workers", "1")


def pins(name: str) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def test_commands_are_the_scripts():
    """Every script of the checkout is a command, and has one name in all places."""
    scripts = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")]}
    assert set(commands.COMMANDS.values()) == scripts - {"tools/fr.py"}
    assert PROJECT["scripts"] == dict.fromkeys(commands.COMMANDS, "fr.options.commands:run_script")


def test_dependencies_admit_the_pins():
    needed = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    assert needed.keys() == pins("requirements.txt").keys()
    extras = PROJECT["optional-dependencies"]
    needed |= {one.name: one.specifier for names in extras.values() for one in map(Requirement, names)}
    pinned = pins("requirements.txt")
    for extra in extras:
        pinned |= pins(f"requirements-{extra}.txt")
    for name, versions in needed.items():
        assert versions.contains(pinned[name]), name


def test_texts_name_the_commands_of_an_installed_package(monkeypatch: pytest.MonkeyPatch):
    text = "python tools/make_list.py A; torchrun --nproc_per_node 4 train.py @x.yml; train.py's options; my_train.py"
    assert commands.as_called(text) == text
    monkeypatch.setattr(commands, "_INSTALLED", True)
    assert commands.as_called(text) == (
        "fr-make-list A; torchrun --nproc_per_node 4 --no-python fr-train @x.yml; fr-train's options; my_train.py"
    )
    assert commands.next_command("tools/make_list.py", "a b") == "next: fr-make-list 'a b'"
    torchrun = commands.command_line("train.py", "@x.yml", launch="torchrun --nproc_per_node 4")
    assert torchrun == "torchrun --nproc_per_node 4 --no-python fr-train @x.yml"


@given(value=st.text(st.sampled_from("$~@-{}=' /\"\\\nHOMEé"), max_size=12))
def test_a_printed_command_gives_its_values_whatever_they_contain(value: str):
    """`./` in front of a path makes no other path of it. `=~` can't be written: that is the home folder."""
    assume("=~" not in value)
    shown = commands.command_line("train.py", *REQUIRED, log_folder=value)
    found = train_options(shlex.split(shown)[2:]).values.log_folder
    assert os.path.normpath(found) == os.path.normpath(value)


def test_a_command_is_printed_for_the_folder_it_is_printed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert commands.command_line("train.py", "-m", "0.4") == "python train.py -m 0.4"
    monkeypatch.chdir(tmp_path)
    assert commands.command_line("train.py", "-m", "0.4") == f"python {ROOT / 'train.py'} -m 0.4"


def test_recipes_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert Path(commands.recipe("configs/quickstart.yml")).samefile(ROOT / "configs/quickstart.yml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yml").touch()
    assert commands.recipe("configs/quickstart.yml") == "configs/quickstart.yml"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment that has the wheel, and of everything else what the tests have."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True, timeout=300)
    venv.create(folder / "venv", with_pip=False)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    (inside / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = map(str, folder.glob("*.whl"))
    subprocess.run([*pip, "--python", str(folder / "venv"), "install", "--no-deps", wheel], check=True, timeout=300)
    return folder / "venv/bin"


def called(installed: Path, folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{installed}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.thorough
def test_quick_start_of_the_package(installed: Path, tmp_path: Path):
    """Data, training on two ranks, scores and a list, by the commands alone."""
    python = str(installed / "python")
    assert str(installed.parent) in called(installed, tmp_path, python, "-c", "import fr; print(fr.__file__)")
    called(installed, tmp_path, "fr-sample-data", "quickstart/data", *SMALL)
    ranks = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python", "fr-train")
    said = called(installed, tmp_path, python, "-m", *ranks, "@configs/quickstart.yml", "--max_iterations", "2")
    assert "next: fr-evaluate --snap quickstart/snapshots/quickstart_2.pt" in said
    snap = ("--snap", "quickstart/snapshots/quickstart_2.pt")
    assert "AUC" in called(installed, tmp_path, "fr-evaluate", *snap, "--report", "report")
    assert (tmp_path / "report/index.html").is_file()
    assert "fr-make-list" in called(installed, tmp_path, "fr-make-list", "--help")


@pytest.mark.thorough
def test_loop_of_the_documentation(installed: Path, tmp_path: Path):
    """The loop of docs/api.md trains on two ranks, and its snapshot is scored."""
    (loop,) = re.findall("```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    (tmp_path / "loop.py").write_text(loop)
    called(installed, tmp_path, "fr-sample-data", "data", *SMALL)
    run = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "loop.py", "data/vggface2", "3")
    losses = re.findall(r"^\d ([\d.]+)$", called(installed, tmp_path, str(installed / "python"), *run), re.MULTILINE)
    assert len(losses) == 3
    score = ("fr-evaluate", "--snap", "own_3.pt", "--val_data_root", "data/lfw", "--val_batch_size", "20")
    assert "AUC" in called(installed, tmp_path, *score)
