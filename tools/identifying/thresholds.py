"""The file of tools/choose_threshold.py: a threshold, the rates at it, and the embeddings that it holds for."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fr.errors import InputError
from fr.evaluation.embedding_cache import weights_digest
from fr.evaluation.scoring import Embedder
from fr.files.durable import write_json
from fr.files.untrusted import read_text
from fr.recognition.operating_points import OperatingPoint

_MOST = 1 << 16  # bytes


def embeddings_of(embedder: Embedder) -> dict[str, Any]:
    """What a threshold depends on: the weights (SHA-256), the mirror image's part and the preprocessing.

    InputError for an ONNX file that refers to others, whose weights aren't known by one file.
    """
    model, snap, digest = embedder.model, embedder.options.snap, hashlib.sha256()
    if isinstance(model.network, nn.Module):  # of the file of an import the metrics are changed by its first evaluation
        for name, tensor in model.network.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    elif not (of_file := weights_digest(Path(snap))):
        raise InputError(f"{snap}: refers to other files; a threshold is for a model in one file")
    else:
        digest.update(of_file.encode())
    preprocessing = model.preprocessing.as_dict()
    return {"weights": digest.hexdigest(), "mirror": embedder.flip_mode, "preprocessing": preprocessing}


def write_threshold(path: Path, point: OperatingPoint, gallery: int, embeddings: dict[str, Any]) -> None:
    """Write the file. gallery: its people, 0 for pairs. embeddings: of `embeddings_of`."""
    write_json(path, {**asdict(point), "gallery": gallery, "embeddings": embeddings})


@dataclass(frozen=True)
class Threshold:
    """A cosine distance, and the people of the gallery it was chosen for: 0 = for pairs, None = not known."""

    distance: float
    gallery: int | None = None

    def doubt(self, people: int) -> str:
        """Warning about its use with a gallery of so many people; "" = none."""
        if self.gallery is None or people <= self.gallery:
            return ""
        for_whom = f"a gallery of {self.gallery:,} people" if self.gallery else "pairs (--fmr)"
        return f"the threshold was chosen for {for_whom}; among {people:,} people more strangers get a name"


def read_threshold(path: Path, embeddings: dict[str, Any]) -> Threshold:
    """The threshold in a file; InputError unless it was chosen for such embeddings."""
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
