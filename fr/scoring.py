"""Options → a model scored on sets: what evaluate_lfw.py and tools/compare_models.py both begin with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fr.data.annotations import VerificationFaces
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.verification_set import VerificationSet, sets_to_score
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation import embed, pair_scores
from fr.histogram_protocol import verify_by_histogram
from fr.option_parsing import Resolved
from fr.scored_model import ScoredModel, open_model
from fr.verification import Verification, verify

PROTOCOLS = {"standard": verify, "histogram": verify_by_histogram}


@dataclass(frozen=True)
class Scored:
    """A model, a set it was scored on, and the scores [P] of the set's pairs. embedding: how it was made."""

    model: ScoredModel
    of: VerificationSet
    dali: DaliSettings
    embedding: str
    verification: Verification
    scores: NDArray[np.float64]

    @property
    def faces(self) -> VerificationFaces:
        return self.of.faces


def score(resolved: Resolved, ranks: Ranks) -> list[Scored]:
    """Score `--snap` on each set by the options of evaluate_lfw.py; the same on every rank. InputError when something
    doesn't fit, of any set before the first is scored.

    What an option overrides is printed by the first rank.
    """
    options = resolved.values
    model = open_model(options, ranks.device)
    sets = sets_to_score(vars(options), model.config, options.snap)
    flipped = wants_flip(resolved, model)
    if ranks.is_main and model.overrides:
        print("\n".join(model.overrides), flush=True)
    dali, batch = dali_settings(options.dali_device, options.dali_threads, ranks), options.val_batch_size
    embedding = _EMBEDDINGS[options.flip_mode if flipped else ""] + (", less the set's mean" if options.center else "")
    scored = []
    for of in sets:
        faces = of.faces
        rows = embed(model.network, faces, model.preprocessing, dali, ranks, batch, flipped, options.flip_mode)
        scores = pair_scores(faces, rows, options.dist, options.center)
        verification = PROTOCOLS[options.protocol](scores, faces.same, faces.fold, options.dist)
        scored.append(Scored(model, of, dali, embedding, verification, scores))
    return scored


def wants_flip(resolved: Resolved, model: ScoredModel) -> bool:
    """Whether mirror images count, too: as --flipped_emb says, or unsaid as in the training. InputError for a
    --flip_mode without effect."""
    options = resolved.values
    said = resolved.origins["flipped_emb"] != "default"
    flipped = bool(options.flipped_emb if said else model.config.get("flipped_emb"))
    mode = getattr(options, "flip_mode", "sum")  # not every tool has it
    if not flipped and mode != "sum":
        raise InputError(f"--flip_mode {mode}: no effect without --flipped_emb")
    return flipped


_EMBEDDINGS = {
    "": "of the picture alone",
    "sum": "mean of the picture's and its mirror image's",
    "concat": "the picture's and its mirror image's, one behind the other",
}
