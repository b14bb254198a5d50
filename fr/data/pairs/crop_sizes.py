"""Plausibility check of verification sets without landmarks, whose images are assumed to be aligned crops."""

from fr.data.faces import Faces
from fr.data.placement import sizes_of
from fr.errors import InputError

_OF_LFW = (250, 250)  # pixels
_LOOKED_AT = 32  # images, evenly spread over the set: a few milliseconds


def size_warning(faces: Faces) -> str:
    """Reason to doubt that the images are aligned crops, from their sizes; "" = none."""
    encoded = []
    for row in faces.spaced_rows(_LOOKED_AT).tolist():
        try:
            encoded.append(faces.read(row))
        except (OSError, InputError):  # reported when the images are embedded
            return ""
    sizes = {(width, height) for width, height in sizes_of(encoded).tolist()}
    if sizes == {_OF_LFW}:
        return "they are 250×250, as LFW's photographs are"
    if len(sizes) < 2:
        return ""
    (low_w, low_h), (high_w, high_h) = min(sizes), max(sizes)
    return f"their sizes differ, from {low_w}×{low_h} to {high_w}×{high_h}, which those of aligned crops don't"
