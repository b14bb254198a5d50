"""IJB 1:N: the lists of galleries and probes, and searches against a search written out plainly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fr.data.pairs.ijb import read_ijb
from fr.data.pairs.ijb_identification import TemplateList, read_identification
from fr.data.pairs.lfw import read_lfw
from fr.errors import InputError
from fr.files.data_root import DataRoot
from fr.recognition.gallery import normalised_rows
from tests.builders.scored_models import models  # noqa: F401  # a fixture
from tests.sets import written
from tests.test_ijb import write_ijb
from tools import evaluate_ijb

POINTS = "30 40 70 41 50 60 35 80 65 81.5 0.9"
HEADER = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Templates 11 to 16 of one image each, and 17 of two."""
    members = [(f"{tid}.jpg", tid, 1) for tid in (14, 11, 12, 13, 15, 16, 17)] + [("18.jpg", 17, 2)]
    (tmp_path / "loose_crop").mkdir()
    for name, _, _ in members:
        (tmp_path / "loose_crop" / name).touch()
    write_ijb(tmp_path, members, [POINTS] * 8, [(11, 12, 1), (12, 13, 0)])
    for name, rows in (("gallery_G1", "11,5,a.jpg,1\n12,3,b.jpg,2\n11,5,c.jpg,3\n"), ("gallery_G2", "13,9,d.jpg,4\n"),
                       ("probe_mixed", '14,5,"e, f.jpg",5\n15,9,g.jpg,6\n17,8,h.jpg,\n16,3,i.jpg,8\n')):  # fmt: skip
        written(tmp_path / f"meta/ijbc_1N_{name}.csv", HEADER + rows)
    return tmp_path


def test_templates_and_subjects_are_those_of_the_lists(small: Path) -> None:
    ijb = read_ijb(DataRoot(small))
    probes, galleries = read_identification(DataRoot(small), ijb)
    assert ijb.ids.tolist() == [11, 12, 13, 14, 15, 16, 17]
    assert list(galleries) == ["g1", "g2"]
    assert (galleries["g1"].template.tolist(), galleries["g1"].subject.tolist()) == ([0, 1], [5, 3])
    assert (galleries["g2"].template.tolist(), galleries["g2"].subject.tolist()) == ([2], [9])
    assert (probes.template.tolist(), probes.subject.tolist()) == ([3, 4, 5, 6], [5, 9, 3, 8])
    for path in small.glob("meta/*gallery*"):
        path.unlink()
    assert read_identification(DataRoot(small), ijb)[1] == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("gallery_G2", "13,9", "19,9", "ijbc_1N_gallery_G2.csv: template 19 has no images"),
        ("gallery_G1", "11,5,c", "11,6,c", "ijbc_1N_gallery_G1.csv: template 11 is of subjects 5 and 6"),
        ("probe_mixed", "15,9", "15,x", "ijbc_1N_probe_mixed.csv: lines don't begin with template and subject"),
        ("probe_mixed", "15,9,g.jpg,6", "15", "ijbc_1N_probe_mixed.csv: lines don't begin with"),
        ("gallery_G2", "13,9,d.jpg,4\n", "", "ijbc_1N_gallery_G2.csv: "),
    ],
)
def test_what_is_wrong_in_a_list_is_named(file: str, old: str, new: str, said: str, small: Path) -> None:
    path = small / f"meta/ijbc_1N_{file}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as caught:
        read_identification(DataRoot(small), read_ijb(DataRoot(small)))
    assert said in caught.value.problems[0]


def test_a_list_of_probes_that_is_missing_is_named(small: Path) -> None:
    (small / "meta/ijbc_1N_probe_mixed.csv").unlink()
    with pytest.raises(InputError, match=r"ijbc_1N_probe_mixed\.csv: can't be read: No such file"):
        read_identification(DataRoot(small), read_ijb(DataRoot(small)))


def plainly(templates: Any, probes: TemplateList, gallery: TemplateList) -> dict[str, float | None]:
    """Every probe against every template of the gallery, one by one."""
    known = sorted(set(gallery.subject.tolist()))
    ranks, mated_tops, strangers = [], [], []
    for row, subject in zip(probes.template.tolist(), probes.subject.tolist(), strict=True):
        best = dict.fromkeys(known, -2.0)
        for place, of in zip(gallery.template.tolist(), gallery.subject.tolist(), strict=True):
            best[of] = max(best[of], float(templates[row] @ templates[place]))
        if subject in best:
            ranks.append(sum(score >= best[subject] for score in best.values()))
            mated_tops.append(max(best.values()))
        else:
            strangers.append(max(best.values()))
    found: dict[str, float | None] = {f"rank{k}": float(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)}
    for fpir in (0.1, 0.01):
        allowed = int(fpir * len(strangers))
        name = f"tpir@fpir={fpir:.0e}"
        found[name] = None
        if allowed:
            score = sorted(strangers, reverse=True)[allowed]
            assert sum(stranger > score for stranger in strangers) <= allowed
            found[name] = float(np.mean([r == 1 and top > score for r, top in zip(ranks, mated_tops, strict=True)]))
    return found


def test_searches_are_those_written_out_plainly() -> None:
    """Two galleries of different people; a probe is mated in one of them; one person has two templates."""
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(60, 8))
    subject = np.concatenate([np.arange(60), [3], np.repeat(np.arange(60), 5)])
    rows = normalised_rows((centers[subject] + 0.6 * draw.normal(size=(361, 8))).astype(np.float32))
    places = np.arange(61)
    galleries = {name: TemplateList(places[part], subject[:61][part] * 7)
                 for name, part in (("g1", subject[:61] < 30), ("g2", subject[:61] >= 30))}  # fmt: skip
    order = draw.permutation(300) + 61
    probes = TemplateList(order, subject[order] * 7)
    found = evaluate_ijb.identification(rows, probes, galleries)
    each = {name: plainly(rows, probes, gallery) for name, gallery in galleries.items()}
    for metric in each["g1"]:
        first, second = (each[name][metric] for name in galleries)
        assert found[f"{metric}_g1"] == pytest.approx(first)
        assert found[f"{metric}_g2"] == pytest.approx(second)
        assert first is not None and second is not None and 0.02 < first < 1
        assert found[metric] == pytest.approx((first + second) / 2)
    assert "threshold@fpir=1e-01_g1" in found and "threshold@fpir=1e-01" not in found


def test_the_command_searches_the_galleries_that_are_there(
    models: list[str],  # noqa: F811
    sample_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = sample_data / "lfw"
    faces = read_lfw(DataRoot(Path(f"{data}/lfw")), f"{data}/pairs.txt", f"{data}/lfw_landmark.txt")
    names = faces.names.to_pylist()
    people = [name.split("/")[0] for name in names]
    (tmp_path / "loose_crop").symlink_to(data / "lfw")
    points = [f"{' '.join(map(str, of.ravel()))} 1" for of in faces.landmarks]
    pairs = [(a, b, int(same)) for (a, b), same in zip(faces.pairs.tolist(), faces.same.tolist(), strict=True)]
    write_ijb(tmp_path, [(name, row, 1) for row, name in enumerate(names)], points, pairs)
    known = sorted(set(people))
    subject = [known.index(one) for one in people]
    first = {one: people.index(one) for one in known}
    for name, of in (("G1", known[::2]), ("G2", known[1::2])):
        rows = "".join(f"{first[one]},{known.index(one)},x\n" for one in of)
        written(tmp_path / f"meta/ijbc_1N_gallery_{name}.csv", HEADER + rows)
    rows = "".join(f"{row},{of},x\n" for row, of in enumerate(subject) if row not in first.values())
    written(tmp_path / "meta/ijbc_1N_probe_mixed.csv", HEADER + rows)
    out = tmp_path / "f.json"
    assert evaluate_ijb.main([str(tmp_path), "--snap", models[0], "--device", "cpu", "--json", str(out)]) == 0
    figures, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert 0 <= figures["rank1"] <= figures["rank5"] <= figures["rank10"] <= 1 and "auc" in figures
    assert f"RANK1: {figures['rank1']:.4f}\n" in printed and f"RANK5_G2: {figures['rank5_g2']:.4f}\n" in printed
    assert f"1:N: {len(names) - len(known)} probes; templates " in printed
