"""Settings of face detection; `fr/recognition/detection.py` detects."""

from dataclasses import dataclass

CHOICES = ("center", "largest", "certain")  # rules for the choice of one of several faces


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of `Mtcnn`.

    min_face: side of the smallest face [pixels]. thresholds: minimum scores of the three stages. max_side: an image
    with a longer side is scaled down to this [pixels], which bounds the memory.
    """

    min_face: int = 20
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    max_side: int = 1600
