"""The file of tools/choose_threshold.py: a threshold, the rates at it, and the embeddings that it holds for."""

import json
from pathlib import Path

from fr.errors import InputError
from fr.evaluation.embedding_cache import weights_digest
from fr.files.durable import write_result
from fr.files.untrusted import read_text
from fr.recognition.operating_points import OperatingPoint

_MOST = 1 << 16  # bytes


def write_threshold(path: Path, point: OperatingPoint, rate: str, gallery: int, snap: Path, flipped: bool) -> None:
    """Write the file. rate: "fmr" or "fpir". gallery: its people, 0 for fmr. flipped: mirror images were added."""
    facts = {"rate": rate, "gallery": gallery, "weights": weights_digest(snap), "flipped": flipped}
    write_result(path, (json.dumps({**point.as_dict(), **facts}, indent=1) + "\n").encode())


def read_threshold(path: Path, snap: Path, flipped: bool) -> float:
    """The threshold in a file; InputError unless it was chosen for this model, with or without mirror images alike."""
    try:
        stored = json.loads(read_text(path, _MOST))
        threshold, weights, mirrored = float(stored["threshold"]), stored["weights"], stored["flipped"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: not a file of tools/choose_threshold.py") from error
    again = "choose one with tools/choose_threshold.py"
    if weights != weights_digest(snap):
        raise InputError(f"{path}: the threshold was chosen for another model than {snap}; {again}")
    if mirrored != flipped:
        raise InputError(f"{path}: the threshold was chosen with --flipped_emb {str(mirrored).lower()}; {again}")
    return threshold
