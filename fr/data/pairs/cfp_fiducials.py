"""CFP's fiducials as five landmarks: `Data/Fiducials/001/frontal/01.txt` is of `Data/Images/001/frontal/01.jpg`.

30 lines `x,y` in pixels, for one half of the face in frontal as well as profile images:

| lines from 0 | points |
|---|---|
| 0-8 | jaw, from the ear to the chin |
| 9-11 | eyebrow |
| 12-17 | eye: outer corner, twice the upper lid, inner corner, twice the lower lid |
| 18-21 | ridge of the nose, from between the eyes to the tip |
| 22-24 | base of the nose, from the middle to the nostril |
| 25-29 | corner of the mouth; middle of the lips |

The other half isn't in the files. Frontal faces are assumed to be symmetric about the line that best fits the points in
their middle. In profile, the hidden eye is assumed to be at the bridge of the nose, and the hidden corner of the mouth
in the middle of the lips.
"""

import posixpath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.data.faces import PIXELS, check_landmarks, refuse
from fr.data.lines import listed_points
from fr.files.data_root import DataRoot
from fr.files.untrusted import read_text

FIDUCIALS = Path("Data/Fiducials")
_IMAGES = "Data/Images/"
_POINTS = 30
_EYE, _BRIDGE, _TIP, _CORNER, _LIPS = slice(12, 18), 18, 21, 25, slice(26, 30)
_MIDDLE = (8, 18, 19, 20, 21, 22, 26, 27, 28, 29)
_MOST_BYTES = 1 << 16


def read_fiducials(root: DataRoot, names: list[str]) -> NDArray[np.float64]:
    """Landmarks [N, 5, 2] in pixels of images by their paths below the root.

    InputError, OutsideRoot for files that are missing, lie outside the root, or don't hold 30 points.
    """
    paths = [root.path / FIDUCIALS / Path(name.removeprefix(_IMAGES)).with_suffix(".txt") for name in names]
    problems: list[str] = []
    points = np.array([_read(root, path, problems) for path in paths])
    far = np.flatnonzero(~(np.abs(points) < PIXELS.farthest).all(axis=(1, 2)))  # true for NaN, too
    refuse([*problems, *(f"{paths[i]}: not finite, or {PIXELS.far}" for i in far.tolist())])
    profile = np.array([posixpath.basename(posixpath.dirname(name)) == "profile" for name in names])
    landmarks = five_landmarks(points, profile)
    check_landmarks(landmarks, lambda i: str(paths[i]))
    return landmarks


def five_landmarks(points: NDArray[np.float64], profile: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Five landmarks [N, 5, 2] of fiducials [N, 30, 2]; profile: [N]."""
    eye, corner, tip = points[:, _EYE].mean(axis=1), points[:, _CORNER], points[:, _TIP]
    there = np.stack([eye, corner], axis=1)  # [N, 2, 2]
    hidden = np.stack([points[:, _BRIDGE], points[:, _LIPS].mean(axis=1)], axis=1)
    other = np.where(profile[:, None, None], hidden, _mirrored(there, points[:, _MIDDLE]))
    left = (there[:, 0, 0] < other[:, 0, 0])[:, None, None]  # the points are of the half on the left of the image
    first, second = np.where(left, there, other), np.where(left, other, there)
    return np.stack([first[:, 0], second[:, 0], tip, first[:, 1], second[:, 1]], axis=1)


def _mirrored(points: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mirror points [N, K, 2] in the least-squares lines through `middle` [N, M, 2]."""
    center = middle.mean(axis=1, keepdims=True)
    around = middle - center
    along = np.linalg.eigh(np.einsum("nmi,nmj->nij", around, around))[1][:, None, :, 1]  # [N, 1, 2], of length 1
    offset = points - center
    mirrored: NDArray[np.float64] = center + 2 * (offset * along).sum(axis=-1, keepdims=True) * along - offset
    return mirrored


def _read(root: DataRoot, path: Path, problems: list[str]) -> NDArray[np.float64]:
    """Points [30, 2]; for any other content appends to `problems` and returns zeros."""
    root.check_inside(path)
    lines = read_text(path, _MOST_BYTES).rstrip().split("\n")
    return listed_points(path, 1, lines, ",", _POINTS, "points; CFP has", problems)
