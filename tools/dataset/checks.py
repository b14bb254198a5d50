"""Checks of a data set from its images' facts.

N images. Each finding has a kind, one of KINDS.
"""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr import alignment
from fr.data import placement
from fr.data.faces import LabelledFaces
from fr.files.images import upright_directions
from tools.dataset.image_facts import ImageFacts
from tools.dataset.near_duplicates import conflicts, near_pairs, near_pairs_within, repeats
from tools.dataset.registration import same_pictures
from tools.options.check_dataset import Limits

_EYES_APART = float(np.ptp(np.array(alignment.TEMPLATES["arcface"])[:2, 0]))  # fraction of the aligned face's width
_SIDE = 112  # pixels, the usual side of published aligned faces
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_WIDEST = 64  # bits of 256; beyond, too many pairs of one person are proposed
SURE = 16  # bits of 256; signatures of different images have differed by at least 36
_LEAST_DEVIATION = 0.01  # fraction of the eye distance; for computed landmarks, whose deviation is 0


@dataclass(frozen=True)
class Finding:
    """Finding of a check. row: the image, None = the whole identity; other: the image that it duplicates."""

    kind: str
    label: int
    row: int | None
    detail: str = ""
    other: int | None = None


class Findings:
    """All findings, and the images that stay after dropping kinds."""

    def __init__(self, labels: NDArray[np.int64], drop: Collection[str]) -> None:
        self.found: list[Finding] = []
        self.stays = np.ones(len(labels), dtype=bool)  # [N]
        self.unchecked: dict[str, str] = {}  # kind that wasn't looked for → the reason
        self._labels = labels
        self._drop = drop

    def add(self, kind: str, row: int, detail: str = "", other: int | None = None) -> None:
        """Add a finding of an image."""
        self.found.append(Finding(kind, int(self._labels[row]), row, detail, other))
        self.stays[row] &= kind not in self._drop

    def add_identity(self, kind: str, label: int, detail: str) -> None:
        """Add a finding of an identity with all its images."""
        self.found.append(Finding(kind, label, None, detail))
        if kind in self._drop:
            self.stays[self._labels == label] = False


def check(
    faces: LabelledFaces, facts: ImageFacts, limits: Limits, people: dict[int, str] | None, workers: int = 0
) -> Findings:
    """Run all checks. workers: as in `gather`.

    people: label → person of the verification set with the same name; None without a verification set.
    """
    findings = Findings(faces.labels, limits.drop)
    if people is None:
        findings.unchecked["in_verification"] = "no --val_list was given"
    if not faces.landmarks.shape[1]:
        findings.unchecked["landmarks"] = "aligned crops"
    people = people or {}
    for row, problem in facts.problems.items():
        findings.add("unusable", row, problem)
    usable = np.ones(len(faces), dtype=bool)
    usable[list(facts.problems)] = False
    rows = np.flatnonzero(usable)
    if len(rows):
        _check_faces(faces, facts, rows, limits, findings)
        for kind, flags in (("greyscale", facts.grey), ("turned", facts.orientation != 1)):
            for row in rows[flags[rows]].tolist():
                findings.add(kind, row)
        _check_duplicates(faces, facts, rows, near_duplicates(faces, facts, rows, limits.near, workers), findings)
    for label, person in people.items():
        findings.add_identity("in_verification", label, person)
    left = np.bincount(faces.labels[findings.stays], minlength=len(faces.identities))
    had = np.bincount(faces.labels, minlength=len(faces.identities))
    for label in np.flatnonzero(left < limits.min_images).tolist():
        if label not in people or "in_verification" not in limits.drop:
            findings.add_identity("few_images", label, f"{left[label]} of {had[label]} stay")
    return findings


def _check_faces(
    faces: LabelledFaces, facts: ImageFacts, rows: NDArray[np.int64], limits: Limits, findings: Findings
) -> None:
    sizes = facts.sizes[rows]
    if faces.landmarks.shape[1] == 0:
        sides = np.sqrt(sizes.prod(axis=1))
    else:
        points, _ = placement.landmarks_in(faces, rows, sizes)
        template = alignment.template_points("arcface", (_SIDE, _SIDE))
        matrices = alignment.umeyama(points, template)
        sides = _SIDE / np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))
        off = np.sqrt(((alignment.transform(matrices, points) - template) ** 2).sum(axis=2).mean(axis=1))
        misfits = off / (_SIDE * _EYES_APART)
        for place, problem in _suspicious(points, sizes, facts.orientation[rows], misfits, limits.misfit).items():
            findings.add("landmarks", int(rows[place]), problem)
    for place in np.flatnonzero(sides < limits.min_face).tolist():
        findings.add("small_face", int(rows[place]), f"{sides[place]:.0f} pixels")


def _suspicious(
    points: alignment.Array,
    sizes: NDArray[np.int64],
    orientations: NDArray[np.int64],
    misfits: alignment.Array,
    limit: float,
) -> dict[int, str]:
    """Problems of implausible landmarks [n, 5, 2], by row. misfits: distances [n] from the template, in eye distances.

    Landmarks are in the image as stored; orientations [n], EXIF's, turn it to the image as shown, where faces are
    upright.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.moveaxis(points, 1, 0)
    across, along = right_eye - left_eye, right_mouth - left_mouth
    down = (left_mouth + right_mouth - left_eye - right_eye) / 2
    exchanged = (across[:, 0] * down[:, 1] <= across[:, 1] * down[:, 0]) | ((across * along).sum(axis=1) <= 0)
    outside = ((points < -0.5) | (points > sizes[:, None] - 0.5)).any(axis=2).sum(axis=1)
    middle = np.median(misfits)
    deviation = max(_MAD_TO_SIGMA * float(np.median(np.abs(misfits - middle))), _LEAST_DEVIATION)
    reasons: dict[int, list[str]] = {}
    for flags, text in (
        (exchanged, "left and right are exchanged"),
        (upright_directions(down, orientations)[:, 1] <= 0, "the eyes are below the mouth"),
        (outside > 0, "outside the image: {outside} of 5"),
        (misfits > middle + limit * deviation, "unlike a face: off by {misfit:.2f} distances of the eyes"),
    ):
        for place in np.flatnonzero(flags).tolist():
            reasons.setdefault(place, []).append(text.format(outside=outside[place], misfit=misfits[place]))
    return {place: "; ".join(texts) for place, texts in sorted(reasons.items())}


def near_duplicates(
    faces: LabelledFaces, facts: ImageFacts, rows: NDArray[np.int64], near: int, workers: int
) -> NDArray[np.int64]:
    """Pairs of near-duplicates among `rows` whose signatures aren't equal: [P, 2].

    Signatures propose pairs: those that differ in at most `near` of the 128 bits of the lowest frequencies; and, within
    an identity, which has few pairs, in 4 times as many of all bits, at most 64. If more than SURE bits differ, the
    images themselves are compared. Of 42 copies at other sizes, or cropped, 18 bits propose 38 to 40; within an
    identity all are proposed.
    """
    if not near:  # none
        return np.zeros((0, 2), dtype=np.int64)
    signatures = facts.signatures[rows]
    shown, first = np.unique(signatures, axis=0, return_index=True)
    within = near_pairs_within(signatures, faces.labels[rows], min(4 * near, _WIDEST))
    anywhere = first[near_pairs(np.ascontiguousarray(shown[:, :2]), near)]
    proposed = np.unique(np.sort(np.concatenate([anywhere, within]), axis=1), axis=0)
    bits = np.bitwise_count(signatures[proposed[:, 0]] ^ signatures[proposed[:, 1]]).sum(axis=1)
    pairs = rows[proposed]
    compared = same_pictures(faces, pairs[bits > SURE], workers)
    return np.concatenate([pairs[(bits > 0) & (bits <= SURE)], compared])


def _check_duplicates(
    faces: LabelledFaces, facts: ImageFacts, rows: NDArray[np.int64], near_rows: NDArray[np.int64], findings: Findings
) -> None:
    """Check equal files first, then near-duplicates, so that no image is reported for both. near_rows: their pairs."""
    contents = np.unique(facts.content, return_inverse=True)[1]
    pictures = np.full(len(faces), -1)
    pictures[rows] = np.unique(facts.signatures[rows], axis=0, return_inverse=True)[1]
    alike: dict[int, list[int]] = {}
    for first, second in np.unique(np.sort(pictures[near_rows], axis=1), axis=0).tolist():
        alike.setdefault(first, []).append(second)
        alike.setdefault(second, []).append(first)
    none: dict[int, list[int]] = {}
    reported: set[int] = set()
    for kind, nodes, near in (("duplicate", contents, none), ("near_duplicate", pictures, alike)):
        candidates = _not_alone(nodes, near, rows)
        for row, other in conflicts(nodes, near, faces.labels, candidates.tolist()).items():
            if row not in reported:
                findings.add(f"{kind}_across", row, f"also under {faces.identities[faces.labels[other]]}", other)
                reported.add(row)
        # One copy stays in the list if any of the copies does.
        ordered = candidates[np.argsort(~findings.stays[candidates], kind="stable")]
        within = repeats(nodes, near, faces.labels, ordered.tolist())
        for row, other in sorted(within.items()):
            findings.add(kind, row, "", other)
        rows = np.setdiff1d(rows, np.fromiter(within, dtype=np.int64))


def _not_alone(
    nodes: NDArray[np.int64], near: Mapping[int, Sequence[int]], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows that may have a duplicate among the others."""
    own = nodes[rows]
    return rows[(np.bincount(own)[own] > 1) | np.isin(own, np.fromiter(near, dtype=np.int64))]


def same_names(identities: Sequence[str], people: Iterable[str]) -> dict[int, str]:
    """Label → person with the identity's name, ignoring case, accents, quotes and punctuation."""
    called = {plain_name(person): person for person in people}
    return {label: called[plain] for label, name in enumerate(identities) if (plain := plain_name(name)) in called}


# Letters that Unicode doesn't decompose into a base letter and an accent.
_PLAIN = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"})


def plain_name(name: str) -> str:
    """Normalise `Recep_Tayyip_Erdoğan` to `receptayyiperdogan`; names without letters or digits are unchanged."""
    apart = unicodedata.normalize("NFKD", name.casefold().translate(_PLAIN))
    return "".join(letter for letter in apart if letter.isalnum()) or name
