"""The file of tools/choose_threshold.py: a threshold, the rates at it, and the embeddings for which it is valid."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fr.console import counted
from fr.errors import InputError
from fr.evaluation.embedding_cache import weights_digest
from fr.evaluation.scoring import Embedder
from fr.files.durable import write_json
from fr.files.untrusted import read_text
from fr.recognition.operating_points import OperatingPoint

_MOST = 1 << 16  # bytes


def embeddings_of(embedder: Embedder) -> dict[str, Any]:
    """Properties of embeddings on which a threshold depends: weights (SHA-256), mirror images and preprocessing.

    InputError for an ONNX file with weights in other files.
    """
    model, snap, digest = embedder.model, embedder.options.snap, hashlib.sha256()
    if isinstance(model.network, nn.Module):  # not of the file: the first evaluation of an import changes its metrics
        for name, tensor in model.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    elif not (of_file := weights_digest(Path(snap))):
        raise InputError(f"{snap}: refers to other files; a threshold is for a model in one file")
    else:
        digest.update(of_file.encode())
    preprocessing = model.preprocessing.as_dict()
    return {"weights": digest.hexdigest(), "mirror": embedder.flip_mode, "preprocessing": preprocessing}


def write_threshold(path: Path, point: OperatingPoint, gallery: int, embeddings: dict[str, Any]) -> None:
    """Write the file. gallery: number of its people, 0 for pairs. embeddings: from `embeddings_of`."""
    write_json(path, {**asdict(point), "gallery": gallery, "embeddings": embeddings})


@dataclass(frozen=True)
class Threshold:
    """A cosine distance, and the number of people in the gallery for which it was chosen: 0 = pairs, None = unknown."""

    distance: float
    gallery: int | None = None

    def warning(self, people: int) -> str:
        """Warning about its use with a gallery of so many people; "" if there is none."""
        if self.gallery is None or people <= self.gallery:
            return ""
        for_whom = f"a gallery of {counted(self.gallery, 'person', 'people')}" if self.gallery else "pairs (--fmr)"
        return f"the threshold was chosen for {for_whom}; among {people:,} people more unknown people are accepted"


def read_threshold(path: Path, embeddings: dict[str, Any]) -> Threshold:
    """Read the threshold of a file; InputError unless it was chosen for these embeddings."""
    try:
        stored = json.loads(read_text(path, _MOST))
        threshold = Threshold(float(stored["threshold"]), int(stored["gallery"]))
        different = [name for name, value in embeddings.items() if stored["embeddings"][name] != value]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: not a file of tools/choose_threshold.py") from error
    if different:
        raise InputError(
            f"{path}: the threshold was chosen for other embeddings: {', '.join(different)} differ; choose one with "
            "tools/choose_threshold.py"
        )
    return threshold
