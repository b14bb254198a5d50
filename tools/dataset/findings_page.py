"""Findings of a data set check as one self-contained HTML page."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fr.data.faces import LabelledFaces
from fr.errors import InputError
from fr.files.images import decode, image_file
from fr.report.html_page import card, cards, inline_image, named_rows, page
from tools.dataset.checks import Finding, Findings
from tools.dataset.image_facts import ImageFacts
from tools.options.check_dataset import KINDS

_EDGE = 160  # pixels of a thumbnail
_DOT = 2.5  # radius of a landmark in it


def findings_page(
    faces: LabelledFaces, facts: ImageFacts, findings: Findings, drop: list[str], about: Mapping[str, str], shown: int
) -> bytes:
    """HTML page. shown: findings of each kind with images; about: facts about the run, in the order shown."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings.found:
        by_kind[finding.kind].append(finding)
    sections = [
        cards(
            f"{kind}: {len(by_kind[kind]):,}",
            KINDS[kind] + (f" The first {shown} are shown." if len(by_kind[kind]) > shown else ""),
            [_card(faces, facts, finding) for finding in by_kind[kind][:shown]],
        )
        for kind in KINDS
        if by_kind[kind]
    ]
    body = f"""<table class="named facts">{named_rows(about.items())}</table>
<h2>Findings</h2>
<table class="named">{_counts(findings, drop)}</table>
{"".join(sections)}"""
    return page("Data set check", body)


def _counts(findings: Findings, drop: list[str]) -> str:
    counts = Counter(finding.kind for finding in findings.found)
    rows = {
        kind: ("–", f"not checked: {findings.unchecked[kind]}")
        if kind in findings.unchecked
        else (f"{counts[kind]:,}", "left out" if kind in drop else "kept")
        for kind in KINDS
    }
    return "".join(f"<tr><th>{kind}</th><td>{count}</td><td>{fate}</td></tr>\n" for kind, (count, fate) in rows.items())


def _card(faces: LabelledFaces, facts: ImageFacts, finding: Finding) -> str:
    marked = finding.kind == "landmarks"
    if finding.row is None:
        own = np.flatnonzero(faces.labels == finding.label).tolist()
        rows = [row for row in own if row not in facts.problems][:2]
    else:
        rows = [finding.row, *([] if finding.other is None else [finding.other])]
    pictures = [_thumbnail(faces, row, facts.sizes[row], marked) for row in rows]
    names = [] if finding.row is None else [faces.names[row].as_py() for row in rows]
    lines = [f"<b>{escape(faces.identities[finding.label])}</b>", *map(escape, [finding.detail] * bool(finding.detail))]
    return card(pictures, "<br>".join([*lines, *map(escape, names)]))


def _thumbnail(faces: LabelledFaces, row: int, size: NDArray[np.int64], marked: bool) -> str:
    """Thumbnail as HTML; empty for an image that Pillow can't read."""
    try:
        small = Image.fromarray(decode(faces.read(row), faces.path(row)).stored)
    except (OSError, InputError):
        return ""
    small.thumbnail((_EDGE, _EDGE))
    if marked and faces.boxes is None:
        draw = ImageDraw.Draw(small)
        for x, y in ((faces.landmarks[row] + 0.5) * small.width / size[0]).tolist():
            draw.ellipse((x - _DOT, y - _DOT, x + _DOT, y + _DOT), fill="#39ff14", outline="black")
    return inline_image(image_file(small, "JPEG", quality=80), faces.names[row].as_py(), "jpeg")
