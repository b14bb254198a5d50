"""Whether the scores of a set lie as they did in the training's own validation, as its snapshot notes it.

Landmarks of another frame, swapped colours, another template or normalisation stop nothing: they cost a point of
accuracy, or thirty. The distribution of the scores shows it.

Letters: P pairs.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fr.data.verification_set import VerificationSet
from fr.errors import InputError

# By how many standard deviations of the different pairs the score of a pair may move (rms). Of a trained MobileFaceNet
# another decoder, taken as noise of ±1 in every pixel, moves them by 0.03; the least of mistakes, another fit of the
# same landmarks, by 0.13, SphereFace's template at 112×112, almost ArcFace's, by 0.3; ranks and batches by 1e-5.
_MOVED = 0.06
_ROUNDING = 1e-4  # of a cosine; networks that give every picture nearly the same embedding have no spread to speak of
_OTHER_PAIRS = 2.0  # standard deviations of the different pairs
_SAMPLE = 64  # pairs
_NUMBERS = {"same": 2, "different": 2, "sample": _SAMPLE}


@dataclass(frozen=True)
class Spread:
    """Where the cosines of a set's pairs lie, whatever --dist, --center and the protocol.

    pairs_hash: which photographs were compared, by name. averaged: by the average of the weights. flip: "" or a
    --flip_mode. pairs: how many. same, different: mean and standard deviation of the pairs of each kind. sample: the
    scores of some pairs, all over the set. Means alone hardly tell of small mistakes: some pairs rise, others fall.
    """

    set: str
    pairs_hash: str
    averaged: bool
    flip: str
    pairs: int
    same: tuple[float, float]
    different: tuple[float, float]
    sample: tuple[float, ...]

    @classmethod
    def of(cls, found: VerificationSet, cosines: NDArray[np.float64], averaged: bool, flip: str) -> "Spread":
        """cosines: [P] of the set's pairs."""
        faces = found.faces
        # The name counts too: in a pack the photographs' are places, and those of two packs may be alike.
        compared = [found.name, faces.names.to_pylist(), faces.pairs.tolist(), faces.same.tolist()]
        kinds = (cosines[faces.same], cosines[~faces.same])
        same, different = ((float(kind.mean()), float(kind.std())) for kind in kinds)
        digest = hashlib.sha256(json.dumps(compared).encode()).hexdigest()
        sample = cosines[np.linspace(0, len(cosines) - 1, _SAMPLE).astype(np.int64)]
        return cls(found.name, digest, averaged, flip, len(cosines), same, different, tuple(sample.tolist()))

    def as_dict(self) -> dict[str, Any]:
        """Builtins only, for snapshots and JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        (same, same_std), (different, different_std) = self.same, self.different
        return f"same pairs {same:.3f} ± {same_std:.3f}, different pairs {different:.3f} ± {different_std:.3f}"


def read_spreads(path: Path, stored: Any) -> list[Spread]:
    """What a file notes, a dict of `Spread.as_dict` each; InputError when it is something else."""
    try:
        return [
            Spread(**{**one, **{name: _numbers(one[name], count) for name, count in _NUMBERS.items()}})
            for one in stored
        ]
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"{path}: what it notes of its scores is of no use") from error


def _numbers(stored: Any, count: int) -> tuple[float, ...]:
    if len(stored) != count or not all(type(number) is float and math.isfinite(number) for number in stored):
        raise ValueError
    return tuple(stored)


def strange(now: Spread, noted: Sequence[Spread]) -> str:
    """What to tell people of scores that don't lie as they should by what the training noted; "" = nothing.

    The same pairs, embedded alike, must have the scores they had, but for rounding. Of another set that can't be asked:
    its photographs may be harder, which brings pairs of one person as near to the others as you like, and the
    separation down with them. Two people chosen by lot look alike to about the same degree in every set; so what is
    strange anywhere is that half of the different pairs score as only 1 in 44 did. Pictures that aren't aligned do
    that; so do people much more alike than those of the training's sets (infants, say).
    """
    known = [one for one in noted if (one.pairs_hash, one.flip) == (now.pairs_hash, now.flip)]
    if known:
        moved = float(np.sqrt(np.square(np.subtract(now.sample, known[0].sample)).mean()))
        if moved <= max(_MOVED * known[0].different[1], _ROUNDING):
            return ""
        of = f"the same pairs, which moved by {moved:.3f} each"
        return _told(now, known[0], of, "that these are the same photographs")
    if not noted:
        return ""
    nearest = max(noted, key=lambda one: one.different[0])
    mean, std = nearest.different
    if now.different[0] <= mean + _OTHER_PAIRS * std + _ROUNDING:
        return ""
    return _told(now, nearest, nearest.set, "whether these people are much alike")


def _told(now: Spread, then: Spread, of: str, also: str) -> str:
    return (
        f"{now.set}: the scores aren't those of the training: {now}; there {then}, of {of}. Look at the landmarks (do "
        f"they belong to these pictures?), the colour order, the template, size, mean and std, and {also}"
    )
