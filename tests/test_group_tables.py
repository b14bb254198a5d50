"""Tables of groups in all forms, the people that they are found for, and the rates in logs, output, JSON and report."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate_lfw
import train
from fr.data.verification_set import VerificationSet
from fr.errors import InputError
from fr.evaluation.group_labels import labels_of
from fr.evaluation.group_rates import Rate
from fr.evaluation.group_table import MOST_GROUPS, read_group_table
from fr.evaluation.groups import Groups
from fr.options.definitions import evaluation_options, train_options
from fr.report.verification_report import write_report
from tests.builders.pages import Page
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.conftest import SPREAD, TINY, data_options, folders, validation_options
from tests.test_groups import faces_of, rates_of
from tests.test_report import FACTS, FILES, lfw_like
from tools.compare_models import main as compare_models

META = "Class_ID, Name, Sample_Num, Flag, Gender\n"
BFW = ",fold,p1,p2,label,id1,id2,att1,att2,vgg16,g1,g2\n"
MAAD = "Filename,Identity,Male,Asian,White\n"


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("identity,group\nann,x\nbob , y\nxan,\n", "", {"ann": "x", "bob": "y"}),
        ("Name;Age;Race\nann;30;asian\nbob;40;white\n", "", {"ann": "asian", "bob": "white"}),
        ("id\tkind\nann\t1\nbob\t0\n", "", {"ann": "1", "bob": "0"}),
        ("id,race,sex\nann,asian,f\nbob,white,m\ncid,,m\n", "sex,race", {"ann": "f asian", "bob": "m white"}),
        ("image,group\nann/1.jpg,x\nann/2.jpg,x\nbob_0001.jpg,y\n", "", {"ann": "x", "bob": "y"}),
        ('\ufeffname,group\r\n"Ann, Jr.",x\r\n\r\n', "", {"Ann, Jr.": "x"}),
        (META + 'n000001, "A, B", 4, 0, m\nn000002, "C", 3, 1, u\n', "", {"n000001": "m", "A, B": "m"}),
        (BFW + "0,1,a_f/n1/1.jpg,b_m/n2/1.jpg,0,0,1,a_f,b_m,0.5,F,M\n", "", {"n1": "a_f", "n2": "b_m"}),
        (BFW + "0,1,a_f/n1/1.jpg,b_m/n2/1.jpg,0,0,1,a_f,b_m,0.5,F,M\n", "g", {"n1": "F", "n2": "M"}),
        # n1: twice male, once not; n2: as often as not; n3: not.
        (MAAD + "n1/1.jpg,1,1,0,0\nn1/2.jpg,1,1,0,0\nn1/3.jpg,1,-1,0,0\nn2/1.jpg,2,-1,0,0\nn2/2.jpg,2,1,0,0\n"
         "n3/1.jpg,3,-1,0,0\n", "Male", {"n1": "Male", "n3": "not Male"}),
        (MAAD + "n1/1.jpg,1,1,1,-1\nn2/1.jpg,2,0,-1,-1\nn3/1.jpg,3,0,-1,0\n", "Asian,White",
         {"n1": "Asian", "n2": "not Asian, White"}),
    ],
)  # fmt: skip
def test_each_form_is_read(text: str, columns: str, expected: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text, encoding="utf-8")
    assert read_group_table(path, [name for name in columns.split(",") if name]) == expected


@pytest.mark.parametrize(
    ("text", "columns", "problem"),
    [
        ("identity,group\nann,x\nbob,y\nann,z\n", "", "g.csv:4: ann is in the group z, but in line 2 in x"),
        ("identity,group\nann,x,y\n", "", "g.csv:2: 3 fields, where the header has 2"),
        ("people,group\nann,x\n", "", "g.csv:1: no column of identities: expected one of identity"),
        ("id,a,b\nann,x,y\n", "", "g.csv:1: choose the groups with --groups_columns: .*there: a, b$"),
        ("id,a,b\nann,x,y\n", "c", "g.csv:1: no column c; .*: id, a, b$"),
        ("", "", "g.csv:1: no column of identities"),
        ("id,group\nann,\n", "", "g.csv: no identity has a group"),
        ("id,group\n" + "".join(f"n{i},{i}\n" for i in range(MOST_GROUPS + 1)), "", "51 groups, such as '0': 50"),
        (META + 'n000001, "A", 4, 7, m\n', "", "g.csv:2: isn't Class_ID"),
        (META + 'n000001, "A", 4, 1, m\n', "Flag", "--groups_columns Flag: no effect .*groups are the genders"),
        (BFW + "0,1,a_f/n1/1.jpg,b_m/n1/1.jpg,0,0,1,a_f,b_m,0.5,F,M\n", "", "g.csv:2: n1 is in the group b_m"),
        (BFW + "0,1,a_f/n1/1.jpg,b_m/n2/1.jpg,0,0,1,a_f,b_m,0.5,F,M\n", "e", "g.csv:1: no column e1"),
        (MAAD + "n1/1.jpg,1,1,0,-1\nn2/1.jpg,1,2,0,-1\n", "Male,White", "g.csv:3: '2' isn't an attribute: -1, 0 or 1"),
        ('id,group\nann,"x\n' + "y" * 200_000 + "\n", "", "g.csv:3: field larger than"),
    ],
)  # fmt: skip
def test_what_is_unlike_its_form_is_named(text: str, columns: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        read_group_table(path, [name for name in columns.split(",") if name])


def test_rfws_folder_is_read(tmp_path: Path) -> None:
    for name in ("African/m.0a", "African/m.0b", "Asian/m.0c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("not a group")
    assert read_group_table(tmp_path) == {"m.0a": "African", "m.0b": "African", "m.0c": "Asian"}
    (tmp_path / "Asian/m.0a").mkdir()
    with pytest.raises(InputError, match=r"Asian/m\.0a: m\.0a is in .*African, too"):
        read_group_table(tmp_path)
    with pytest.raises(InputError, match=r"--groups_columns race: no effect on .*a folder"):
        read_group_table(tmp_path, ["race"])
    with pytest.raises(InputError, match="readme: can't be read: No such file"):
        read_group_table(tmp_path / "readme")
    with pytest.raises(InputError, match="expected a folder a group, and in it a folder an identity"):
        read_group_table(tmp_path / "Asian")


def test_the_genders_of_vggface2_are_all_read(shared_data: Path) -> None:
    path = shared_data / "vggface2/identity_meta.csv"
    table = read_group_table(path)
    ends = Counter(line.rstrip()[-1] for line in path.read_text(encoding="utf-8").splitlines()[1:])
    found = Counter(group for identity, group in table.items() if identity[1:].isdigit())
    assert found == ends and ends.keys() == {"m", "f"} and table["A._A._Gill"] == "m"


def test_people_are_found_by_folder_or_name_and_joined_as_the_set_says() -> None:
    names = ["Data/001/frontal/1.jpg", "Data/001/profile/2.jpg", "Ann_0001.jpg", "Ann_0002.jpg", "bob.jpg", "u_1.jpg"]
    table = {"001": "x", "Ann": "y", "bob": "y"}
    faces = faces_of(names, [(0, 1), (2, 3), (4, 2), (5, 0)], [True, False, False, False])
    labels = labels_of(faces, table, "set")
    person = labels.person.tolist()
    assert person[0] == person[1] and person[2] == person[3] and person[5] == -1
    assert len({person[0], person[2], person[4]}) == 3 == len(labels.group)
    assert [labels.names[labels.group[one]] for one in person[:5]] == ["x", "x", "y", "y", "y"]
    assert labels.images[person[2]] == 2
    # A different pair of one person, and one of somebody without a group, aren't impostors.
    assert labels.impostors(faces).tolist() == [False, False, True, False]
    assert labels.genuine(faces).tolist() == [True, False, False, False]
    joined = faces_of(names, [(2, 4), (0, 5)], [True, True])
    labels = labels_of(joined, table, "set")
    assert labels.person[2] == labels.person[4] and labels.person[5] == labels.person[0] >= 0
    with pytest.raises(InputError, match=r"^set: .*Ann_0001.jpg and .*bob.jpg are one person, .* in y and in z$"):
        labels_of(joined, table | {"bob": "z"}, "set")


def test_sets_without_groups_are_left_out_and_none_is_refused(tmp_path: Path) -> None:
    names = [f"{who}/{image}.jpg" for who in ("ann", "bob", "cid") for image in (1, 2)]
    faces = faces_of(names, [(0, 1), (2, 3), (0, 2), (1, 4)], [True, True, False, False])
    strangers = faces_of([f"no{name}" for name in names], faces.pairs, faces.same)
    sets = [VerificationSet("mine", "/mine", faces), VerificationSet("other", "/other", strangers)]
    path = tmp_path / "g.csv"
    path.write_text("identity,group\nann,x\nbob,x\ncid,y\n")

    def read(*options: str, of: list[VerificationSet] = sets) -> Groups:
        return Groups.read(evaluation_options(["--snap", "a.pt", "--groups", str(path), *options]).values, of)

    groups = read("--groups_fmr", "0.5")
    assert [*groups.labels] == ["mine"] and groups.notes == (f"/other: none of its people is in --groups {path}",)
    assert groups.measure("other", strangers, np.ones((6, 2), np.float32), np.ones(4)) is None
    few = "/mine: 2 pairs of two people who are in --groups allow no false match at --groups_fmr 0.4"
    with pytest.raises(InputError, match=few):
        read("--groups_fmr", "0.4")
    assert [*read("--groups_threshold", "0.4").labels] == ["mine"]
    assert [*read("--groups_fmr", "0.09", "--groups_pairs", "all").labels] == ["mine"]  # of 12 pairs
    with pytest.raises(InputError, match=r"12 pairs of two people .*: give a higher rate or a --groups_threshold"):
        read("--groups_fmr", "0.08", "--groups_pairs", "all")
    with pytest.raises(InputError, match="--groups: no verification set"):
        read(of=[])


@pytest.mark.parametrize("options_of", [lambda argv: train_options(["--train_data_root", "r", "--train_list", "l",
    "--train_landmarks", "c", *argv]), lambda argv: evaluation_options(["--snap", "a.pt", *argv])])  # fmt: skip
def test_options_of_groups_without_effect_are_refused(options_of: Callable[[list[str]], object]) -> None:
    for name, value in (("fmr", "0.1"), ("pairs", "all"), ("columns", "a"), ("threshold", "1")):
        option = [f"--groups_{name}", value]
        with pytest.raises(InputError, match=f"--groups_{name}: no effect without --groups"):
            options_of(option)
        options_of(["--groups", "g.csv", *option])
    with pytest.raises(InputError, match=r"--groups_fmr: goes with --groups_threshold auto; here 0.5"):
        options_of(["--groups", "g.csv", "--groups_fmr", "0.1", "--groups_threshold", "0.5"])
    for wrong in ("-1", "nan", "x"):
        with pytest.raises(InputError, match="--groups_threshold: expected auto or a distance >= 0"):
            options_of(["--groups", "g.csv", f"--groups_threshold={wrong}"])


def test_every_two_images_are_compared_by_cosines_only() -> None:
    with pytest.raises(InputError, match="--groups_pairs: goes with --dist cos; here l2"):
        evaluation_options(["--snap", "a.pt", "--groups", "g.csv", "--groups_pairs", "all", "--dist", "l2"])
    with pytest.raises(InputError, match="--groups: not for several models"):
        compare_models(["a.pt", "b.pt", "--groups", "g.csv"])


# --- outputs ----------------------------------------------------------------------------------------------------------

NAMES = ("<i>x</i> & $y", "z")


def group_file(data: Path, out: Path) -> Path:
    """Two groups of the people of the set, in turns, one named to be escaped."""
    people = sorted(path.name for path in (data / "lfw/lfw").iterdir())
    path = out / "groups.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("identity", "group"), *((who, NAMES[i % 2]) for i, who in enumerate(people))])
    return path


def test_too_few_pairs_for_groups_end_an_evaluation_after_its_metrics(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "f.json"
    scored = ["--snap", models[0], *validation_options(sample_data), "--device", "cpu"]
    few = ["--groups", str(group_file(sample_data, tmp_path)), "--groups_fmr", "0.01", "--bootstrap", "0"]
    with pytest.raises(InputError, match=r"^--groups: no set has rates by group: the warnings above have the reasons$"):
        evaluate_lfw.main([*scored, *few, "--json", str(out)])
    printed, warned = capsys.readouterr()
    figures = json.loads(out.read_text())
    assert f"AUC: {figures['auc']:.4f}" in printed and "groups" not in figures
    assert "warning: " in warned and "pairs of two people who are in --groups allow no false match at" in warned
    (tmp_path / "strangers.csv").write_text("identity,group\nnobody,x\n")
    with pytest.raises(InputError, match="none of its people is in --groups"):  # a wrong table: refused at once
        evaluate_lfw.main([*scored, "--groups", str(tmp_path / "strangers.csv")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("pairs", ["own", "all"])
def test_a_training_logs_the_rates_that_evaluate_lfw_prints_and_writes(
    pairs: str, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--groups", str(group_file(sample_data, tmp_path)), "--groups_pairs", pairs, "--groups_fmr", "0.2"]
    short = [*TINY, *SPREAD, "--max_iterations", "2", "--val_step", "1", *folders(tmp_path)]
    assert train.main([*data_options(sample_data), *validation_options(sample_data), *short, *wanted]) == 0
    first, last = (json.loads(line) for line in (tmp_path / "logs/validation.jsonl").read_text().splitlines())
    said = capsys.readouterr().err
    assert said.count("By group: ") == 2 and " people in 2 groups, " in said
    out = tmp_path / "f.json"
    snap = ["--snap", str(tmp_path / "snapshots/tiny_2.pt"), "--device", "cpu", "--bootstrap", "50"]
    assert evaluate_lfw.main([*snap, *wanted, "--json", str(out), "--report", str(tmp_path / "report")]) == 0
    printed, warned = capsys.readouterr()
    found = json.loads(out.read_text())["groups"]
    board = EventAccumulator(str(tmp_path / "logs"))
    board.Reload()
    for kind in ("fmr", "fnmr"):
        for name in NAMES:
            rate = found["groups"][name][kind]
            assert last[f"group_{kind}/{name}"] == pytest.approx(rate["value"]) and rate["low"] <= rate["value"]
            assert f"{rate['value']:.4f} [{rate['low']:.4f}, {rate['high']:.4f}]  {rate['errors']:,} / " in printed
            logged = [event.value for event in board.Scalars(f"Groups/{kind}/{name}")]
            assert logged == pytest.approx([record[f"group_{kind}/{name}"] for record in (first, last)])
        assert last[f"group_{kind}"] == pytest.approx(found["all"][kind]["value"])
        assert last.get(f"group_{kind}_gini") == pytest.approx(found["differentials"][kind]["gini"])
    assert last["group_fmr_across"] == pytest.approx(found["across_groups"]["fmr"]["value"])
    assert last["group_threshold"] == pytest.approx(found["threshold"], abs=1e-6)
    assert found["pairs"] == pairs and found["all"]["fmr"]["value"] <= 0.2 and found["images_without_a_group"] == 0
    assert [line for line in warned.splitlines() if "too few for its" in line] == [
        f"warning: {line}" for line in found["warnings"]
    ]
    assert json.loads((tmp_path / "report/report.json").read_text())["groups"] == found


def test_the_chapter_of_the_report_has_every_rate_and_is_escaped(tmp_path: Path) -> None:
    scores, same, verification = lfw_like()
    fmr = {NAMES[0]: Rate(31, 1000, 100, (0.0211, 0.0437)), "z": Rate(5, 1000, 100, (0.0016, 0.0116))}
    fnmr = {NAMES[0]: Rate(0, 0, 0), "z": Rate(7, 50, 20, (0.0582, 0.2674))}
    rates = rates_of(fmr, Rate(90, 2000, 200), fnmr)
    write_report(tmp_path, verification, scores, same, FACTS, "LFW", by_group=rates)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not {"script", "i"} & {*page.tags} and "Error rates by group" in page.text
    assert f"{NAMES[0]}\n9\n0.0310\n0.0211–0.0437\n31 / 1,000\n–\n0 / 0\n" in page.text
    assert "z\n9\n0.0050\n0.0016–0.0116\n5 / 1,000\n0.1400\n0.0582–0.2674\n7 / 50\n" in page.text
    assert f"FMR\n{NAMES[0]}, z\n{0.031 / np.sqrt(0.031 * 0.005):.4f}\n{0.026 / 0.036:.4f}\n" in page.text
    assert all(warning in page.text for warning in rates.warnings) and rates.warnings
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "groups.png"])
    plain = write_report(tmp_path / "plain", verification, scores, same, FACTS, "LFW").read_text(encoding="utf-8")
    assert "by group" not in plain
