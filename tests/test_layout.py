"""The layout of fr/: imports go one way, without cycles; documents name files that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *("README.md", "CONTRIBUTING.md", "configs/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
FOLDERS = (".ci", ".github", "configs", "docs", "fr", "launch", "tests", "tools")
DOCUMENTS = [*PAGES, "CHANGELOG.md", "LOG.md"]

# Lowest first. A module imports from its own entry (the longest that it begins with) and from those of lower layers.
LAYERS: dict[str, tuple[str, ...]] = {
    "console": ("fr.console",),
    "errors": ("fr.errors",),
    "ground": ("fr.randomness", "fr.alignment", "fr.progress", "fr.data.nvjpeg"),
    "ranks": ("fr.distributed",),
    "preprocessing": ("fr.preprocessing",),
    "files": ("fr.files",),
    "options": ("fr.options",),
    "parts": ("fr.data", "fr.models", "fr.losses", "fr.onnx"),
    "formats": ("fr.data.readers", "fr.data.pairs"),
    "choice of a format": ("fr.data.formats", "fr.data.verification_set"),
    "formats on all ranks": ("fr.data.distributed_reading",),
    "checkpoint": ("fr.checkpoint",),
    "weights": ("fr.weights",),
    "evaluation": ("fr.evaluation",),
    "uses": ("fr.train", "fr.report", "fr.recognition"),
}
LAYER_OF = {entry: number for number, entries in enumerate(LAYERS.values()) for entry in entries}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "fr").rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """The modules of fr/ that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(level=0, module=str(module), names=names):
                whole = {f"{module}.{name.name}" for name in names}
                found |= whole & MODULES.keys() | ({module} if whole - MODULES.keys() else set())
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: a relative import")
    return {name for name in found if name.split(".")[0] == "fr"}


GRAPH = {module: imports_of(path) for module, path in MODULES.items()}
# Imported without torch. The readers are imported by name (`fr/data/formats.py`).
LIGHT = [
    *("fr.options.definitions", "fr.data.formats", "fr.progress", "fr.alignment"),
    *(module for module in MODULES if module.startswith("fr.data.readers.")),
]


def test_tools_find_the_checkout_from_any_folder() -> None:
    """The first import from it is of fr: started as a script, a tool finds tools/fr.py, which sets the path."""
    imports = re.compile(r"^(?:from|import) (fr|tools)\b", re.MULTILINE)
    first = {path.name: imports.search(path.read_text(encoding="utf-8")) for path in (ROOT / "tools").glob("*.py")}
    assert {match[1] for match in first.values() if match} == {"fr"}


def entry_of(module: str) -> str:
    """The longest entry of LAYERS that a module begins with; "" = none."""
    return max((entry for entry in LAYER_OF if f"{module}.".startswith(f"{entry}.")), key=len, default="")


def test_every_module_has_a_layer() -> None:
    assert [module for module in MODULES if module != "fr" and not entry_of(module)] == []
    assert [entry for entry in LAYER_OF if entry not in MODULES] == []


def test_no_import_points_upward_or_to_a_package_of_the_same_layer() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        if module != "fr"
        for other in sorted(others)
        if (entry := entry_of(other)) != (own := entry_of(module)) and LAYER_OF[entry] >= LAYER_OF[own]
    ]
    assert upward == []


def test_imports_have_no_cycle() -> None:
    left = dict(GRAPH)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert sorted(left) == []  # these import each other, or what does


def test_packages_do_nothing_when_they_are_imported() -> None:
    """Importing a module imports the packages that it is in. `fr.models` collects its files."""
    others = {module: path for module, path in MODULES.items() if module != "fr.models"}
    packages = [path for path in others.values() if path.name == "__init__.py"]
    assert [str(path) for path in packages if len(ast.parse(path.read_text(encoding="utf-8")).body) != 1] == []


@pytest.mark.parametrize("module", LIGHT)
def test_options_and_lists_are_read_without_torch(module: str) -> None:
    pending, seen = [module], {module}
    while pending:
        for other in GRAPH[pending.pop()] - seen:
            seen.add(other)
            pending.append(other)
    heavy = re.compile(r"^\s*(?:import|from) torch\b", re.MULTILINE)
    assert [name for name in sorted(seen) if heavy.search(MODULES[name].read_text(encoding="utf-8"))] == []


def test_the_top_of_fr_fits_a_screen() -> None:
    entries = [path.name for path in (ROOT / "fr").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert len(entries) <= 20, sorted(entries)


def test_every_module_says_what_it_is() -> None:
    paths = [*MODULES.values(), *(ROOT / "tools").rglob("*.py"), ROOT / "train.py", ROOT / "evaluate_lfw.py"]
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in paths}
    assert [str(path) for path, docstring in docstrings.items() if not (docstring or "").split("\n")[0].strip()] == []


def test_a_docstring_begins_with_no_question_word() -> None:
    """A noun phrase or an imperative would do as an entry of an index."""
    paths = [*MODULES.values(), *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.py")]
    question = re.compile(r'^ *"""(?:What|How|Why|When|Where|Which|Who|Whose|Whether|If|Of|As)\b.*', re.MULTILINE)
    begun = {str(path): question.findall(path.read_text(encoding="utf-8")) for path in paths}
    assert {path: lines for path, lines in begun.items() if lines} == {}


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def part(document: str, heading: str) -> str:
    """A document's part of that heading."""
    text = text_of(document)
    assert f"\n{heading}\n" in text, f"{document} has no part {heading!r}"
    return text.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def test_the_readme_says_where_things_are() -> None:
    text = part("README.md", "## Where things are")
    tree = [line for line in text.splitlines() if line.startswith("    ")]
    assert 0 < len(tree) <= 20
    places = [word.strip(",") for line in tree for word in line.strip().split("  ")[0].split()]
    assert [name for name in places if not (ROOT / name).exists()] == []
    packages = {path.parent.name for path in (ROOT / "fr").glob("*/__init__.py")}
    assert {name for name in packages if f"fr/{name}/" not in text} == set()


def test_contributing_answers_each_question_with_at_most_two_files() -> None:
    whole = text_of("CONTRIBUTING.md")
    spans = [span for span in re.findall(r"`([^`\n]+)`", whole) if re.match(r"(fr|tests|tools|docs|launch)/", span)]
    assert [span for span in spans if not (ROOT / span).exists()] == []
    rows = [line for line in part("CONTRIBUTING.md", "## Where to look").splitlines() if line.startswith("| ")][1:]
    answers = {question: re.findall(r"`([^`]+)`", files) for _, question, files, _ in (row.split("|") for row in rows)}
    assert len(answers) >= 15
    assert {question: files for question, files in answers.items() if not 1 <= len(files) <= 2} == {}
    assert [name for files in answers.values() for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "name",
    [
        *("sphere", "sphere_r", "combined"),  # margins
        *("rmnet", "shufflenetv2", "mbf", "mobilenet_1_5x", "inception_resnet_v1"),  # backbones
        *("ms1m", "imdbface", "trp", "trp_test"),  # formats
        *("agedb", "agedb_30", "calfw", "cplfw", "cfp_fp", "cfp_ff"),  # verification sets
        *("lowres", "lowres_prob", "zoom_range", "erase_area"),  # augmentation
    ],
)
def test_a_choice_is_named_in_at_most_two_files(name: str) -> None:
    """So that another one can be added in two files. fr.weights knows names of other systems' models besides."""
    having = [
        module
        for module, path in MODULES.items()
        if not module.startswith("fr.weights.")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == name
    ]
    assert len(set(having)) <= 2, having


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(document)) if "://" not in link]
    own = Path(document)
    files = {link: ROOT / (own.parent / link.partition("#")[0] if link[0] != "#" else own) for link in links}
    assert [link for link, file in files.items() if not file.exists()] == []
    anchors = {link: link.partition("#")[2] for link in links}
    assert [link for link, anchor in anchors.items() if anchor and anchor not in anchors_of(files[link])] == []


@pytest.mark.parametrize("document", PAGES)
def test_documents_name_files_that_exist(document: str) -> None:
    """Every path below a folder of the repository, in prose, tables and commands."""
    folders = "|".join(re.escape(folder) for folder in FOLDERS)
    paths = re.findall(rf"(?<![\w./$-])(?:{folders})/[\w./-]*\w", text_of(document))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_index_of_the_log_names_every_entry() -> None:
    entries = re.findall(r"^## (.+)$", text_of("LOG.md"), re.MULTILINE)
    index = re.findall(r"^- \[(.+)\]\(#", text_of("LOG.md"), re.MULTILINE)
    assert index == entries


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_of_prose_have_at_most_120_columns(document: str) -> None:
    """Rows of tables and links of an index can't be wrapped, commands in code blocks needn't be."""
    lines = enumerate(text_of(document).splitlines(), start=1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith(("|", "    ", "- ["))] == []


def test_the_readme_is_short_and_begins_with_two_commands() -> None:
    text = text_of("README.md")
    assert len(text.splitlines()) <= 300
    assert "    bash launch/quickstart.sh " in text and "    bash tests/run.sh " in text


def test_user_documents_name_no_contracts_of_the_design() -> None:
    assert {page: found for page in PAGES if (found := re.findall(r"\bC\d{1,2}\b", text_of(page)))} == {}
