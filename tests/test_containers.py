"""Container recipes: linted, alike, and what they copy and run gives an environment with the commands."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCKER = (ROOT / "launch/Dockerfile").read_text()
APPTAINER = (ROOT / "launch/apptainer.def").read_text()


def copied() -> list[str]:
    """Files and folders of the checkout that go into an image: what .dockerignore doesn't leave out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    return [line.removeprefix("!") for line in lines[1:] if line.startswith("!")]


def test_the_dockerfile_has_no_finding_of_a_linter():
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([linter, ROOT / "launch/Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_recipes_are_of_the_same_parts():
    for pattern in (r"(?:FROM|From:) (\S+)", r"apt-get install (.+?)(?: \\)?\n", r"bash (/src/launch/image\.sh \S+)"):
        assert re.findall(pattern, DOCKER) == re.findall(pattern, APPTAINER) != []
    files = APPTAINER.partition("%files\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split() for line in files] == [[name, f"/src/{name}"] for name in copied()]


@pytest.mark.thorough
def test_what_an_image_installs_has_the_commands(tmp_path: Path):
    """Without the rest of the checkout, in an environment of its own; as in an image, but for the base."""
    for name in copied():
        target = tmp_path / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, target)
    subprocess.run(["bash", tmp_path / "src/launch/image.sh", tmp_path / "trainer"], check=True, timeout=1200)
    shutil.rmtree(tmp_path / "src")
    programs = tmp_path / "trainer/bin"
    for name in ("fr-train", "fr-evaluate", "fr-detect"):
        done = subprocess.run([programs / name, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and name in done.stdout
    assert (programs / "torchrun").is_file()
    shutil.rmtree(tmp_path / "trainer")  # 7 GB
