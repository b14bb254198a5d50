"""Plausibility check of images without landmarks, which are assumed to be aligned crops."""

from fr.data.faces import Faces
from fr.data.placement import sizes_of
from fr.errors import InputError

_OF_LFW = (250, 250)  # pixels
_LOOKED_AT = 32  # images, evenly spread: a few milliseconds
_ELONGATED = 4 / 3  # longer to shorter side: that of photographs, at least; of CelebA's crops 1.22


def size_warning(faces: Faces) -> str:
    """Reason to doubt that the images are aligned crops, from their sizes; "" = none."""
    encoded = []
    for row in faces.spaced_rows(_LOOKED_AT).tolist():
        try:
            encoded.append(faces.read(row))
        except (OSError, InputError):  # reported when the images are embedded
            return ""
    sizes = {(width, height) for width, height in sizes_of(encoded).tolist() if width}
    if sizes == {_OF_LFW}:
        return "they are 250×250, as LFW's photographs are"
    if len(sizes) > 1:
        (low_w, low_h), (high_w, high_h) = min(sizes), max(sizes)
        return f"their sizes differ, from {low_w}×{low_h} to {high_w}×{high_h}, which those of aligned crops don't"
    for width, height in sizes:
        if max(width, height) >= _ELONGATED * min(width, height):
            return f"they are {width}×{height}, more elongated than aligned crops are"
    return ""
