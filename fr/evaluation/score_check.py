"""Score check: compare a set's score distribution with the one that the snapshot stores from its validation.

Landmarks in other coordinates, swapped colours, another template or normalisation raise no error but cost between 1 and
30 percentage points of accuracy. The score distribution reveals them.

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

# Tolerance for the rms change of the pairs' scores, in standard deviations of the different pairs. With a trained
# MobileFaceNet another decoder (noise of ±1 in every pixel) changes them by 0.03; the smallest mistake, another
# alignment of the same landmarks, by 0.13; SphereFace's template at 112×112 instead of ArcFace's by 0.3; another number
# of ranks or batch size by 1e-5.
_MOVED = 0.06
_ROUNDING = 1e-4  # of a cosine: the tolerance for collapsed networks, whose scores have almost no spread
_OTHER_PAIRS = 2.0  # standard deviations of the different pairs
_SAMPLE = 64  # pairs
_NUMBERS = {"same": 2, "different": 2, "sample": _SAMPLE}


@dataclass(frozen=True)
class Spread:
    """Distribution of the cosines of a set's pairs, independent of --dist, --center and the protocol.

    pairs_hash: of the image names of all pairs. averaged: with averaged weights (EMA). flip: "" or a --flip_mode.
    pairs: their number. same, different: mean and standard deviation of each kind. sample: scores of some pairs spread
    over the set, since small mistakes raise some scores and lower others and hardly change the means.
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
    def measure(cls, pair_set: VerificationSet, cosines: NDArray[np.float64], averaged: bool, flip: str) -> "Spread":
        """Spread of the cosines [P] of a set's pairs."""
        faces = pair_set.faces
        # The set's name is included since the image names in a pack are positions, equal in any two packs.
        compared = [pair_set.name, faces.names.to_pylist(), faces.pairs.tolist(), faces.same.tolist()]
        kinds = (cosines[faces.same], cosines[~faces.same])
        same, different = ((float(kind.mean()), float(kind.std())) for kind in kinds)
        digest = hashlib.sha256(json.dumps(compared).encode()).hexdigest()
        sample = cosines[np.linspace(0, len(cosines) - 1, _SAMPLE).astype(np.int64)]
        return cls(pair_set.name, digest, averaged, flip, len(cosines), same, different, tuple(sample.tolist()))

    def as_dict(self) -> dict[str, Any]:
        """Convert to builtins for snapshots and JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        (same, same_std), (different, different_std) = self.same, self.different
        return f"same pairs {same:.3f} ± {same_std:.3f}, different pairs {different:.3f} ± {different_std:.3f}"


def read_spreads(path: Path, stored: Any) -> list[Spread]:
    """Spreads stored in a file as dicts of `Spread.as_dict`; InputError for anything else."""
    try:
        return [
            Spread(**{**one, **{name: _numbers(one[name], count) for name, count in _NUMBERS.items()}})
            for one in stored
        ]
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"{path}: the scores stored in it are invalid") from error


def _numbers(stored: Any, count: int) -> tuple[float, ...]:
    if len(stored) != count or not all(type(number) is float and math.isfinite(number) for number in stored):
        raise ValueError
    return tuple(stored)


def deviation_warning(now: Spread, noted: Sequence[Spread]) -> str:
    """Warning for scores that deviate from those stored by the training; "" if they don't.

    The same pairs with the same preprocessing must have the same scores up to rounding. Another set may have harder
    images, with arbitrarily low scores of same pairs. But random different pairs have similar scores in every set, so
    it is suspicious if half of them score as high as only 1 in 44 did (mean + 2 standard deviations). The cause may be
    unaligned images, or identities more similar than those of the training's sets (such as infants).
    """
    same_pairs = [one for one in noted if (one.pairs_hash, one.flip) == (now.pairs_hash, now.flip)]
    if same_pairs:
        before = same_pairs[0]
        change = float(np.sqrt(np.square(np.subtract(now.sample, before.sample)).mean()))
        if change <= max(_MOVED * before.different[1], _ROUNDING):
            return ""
        source = f"the same pairs, which changed by {change:.3f} each"
        return _warning(now, before, source, "that these are the same images")
    if not noted:
        return ""
    nearest = max(noted, key=lambda one: one.different[0])
    mean, std = nearest.different
    if now.different[0] <= mean + _OTHER_PAIRS * std + _ROUNDING:
        return ""
    return _warning(now, nearest, nearest.set, "whether these people are much alike")


def _warning(now: Spread, before: Spread, source: str, also: str) -> str:
    return (
        f"{now.set}: the scores aren't those of the training: {now}; there {before}, of {source}. Check the landmarks "
        f"(do they belong to these images?), the colour order, the template, size, mean and std, and {also}"
    )
