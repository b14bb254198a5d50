"""The notebooks run from the first cell to the last, on sample data, and show what they are kept with."""

import base64
import io
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "notebooks"
MEGABYTE = 1_000_000


def pictures(notebook: NotebookNode) -> list[list[tuple[int, int]]]:
    """Sizes of the images that each cell draws."""
    sizes = []
    for cell in notebook.cells:
        drawn = [output.get("data", {}).get("image/jpeg") for output in cell.get("outputs", [])]
        sizes.append([Image.open(io.BytesIO(base64.b64decode(data))).size for data in drawn if data])
    return sizes


def lines(notebook: NotebookNode) -> list[str]:
    """Output of the cells, without its numbers, which differ between machines."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    return re.sub(r"[\d.]+", "0", printed).splitlines()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["detection", "alignment"])
def test_a_notebook_runs_and_shows_the_pictures_that_it_is_kept_with(name: str) -> None:
    if name == "detection":
        pytest.importorskip("facenet_pytorch", reason="init_venv.sh --with detect")
    path = FOLDER / f"{name}.ipynb"
    kept, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    where = {"metadata": {"path": str(FOLDER)}}  # the kernel's working folder
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    assert pictures(notebook) == pictures(kept) and lines(notebook) == lines(kept)
    assert sum(map(len, pictures(notebook))) >= 4


def test_notebooks_are_kept_with_pictures_without_errors_and_small() -> None:
    for path in FOLDER.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any(map(len, pictures(notebook)))
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
        assert path.stat().st_size < MEGABYTE / 2
