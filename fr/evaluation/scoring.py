"""Options → a model scored on sets: what evaluate_lfw.py and tools/compare_models.py both begin with."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.data.faces import Faces, VerificationFaces
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.verification_set import VerificationSet, sets_to_score
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation.embedding import embed, pair_scores
from fr.evaluation.embedding_cache import kept_or_embedded
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.score_check import Spread, strange
from fr.evaluation.scored_model import ScoredModel, open_model
from fr.evaluation.verification import Verification, verify
from fr.options.parsing import Resolved

PROTOCOLS = {"standard": verify, "histogram": verify_by_histogram}


@dataclass(frozen=True)
class Scored:
    """A model, a set it was scored on, embeddings [N, E], and the scores [P] of the set's pairs. embedding: how it was
    made. warning: of scores that don't lie as in the training; "" = none."""

    model: ScoredModel
    of: VerificationSet
    dali: DaliSettings
    embedding: str
    verification: Verification
    embeddings: NDArray[np.float32]
    scores: NDArray[np.float64]
    warning: str

    @property
    def faces(self) -> VerificationFaces:
        return self.of.faces


def score(resolved: Resolved, ranks: Ranks) -> list[Scored]:
    """Score `--snap` on each set by the options of evaluate_lfw.py; the same on every rank. InputError when something
    doesn't fit, of any set before the first is scored.

    What an option overrides, and what is strange about the scores, is printed by the first rank.
    """
    options = resolved.values
    model = open_model(options, ranks.device)
    sets = sets_to_score(vars(options), model.config, options.snap)
    flipped = wants_flip(resolved, model)
    if ranks.is_main and model.overrides:
        print("\n".join(model.overrides), flush=True)
    dali = dali_settings(options.dali_device, options.dali_threads, ranks)
    embedding = _EMBEDDINGS[options.flip_mode if flipped else ""] + (", less the set's mean" if options.center else "")
    scored = []
    for of in sets:
        faces = of.faces
        rows = embeddings(options, model, faces, dali, ranks, flipped)
        scores = pair_scores(faces, rows, options.dist, options.center)
        now = Spread.of(of, pair_scores(faces, rows), options.averaged, options.flip_mode if flipped else "")
        if (warning := strange(now, model.noted)) and ranks.is_main:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        verification = PROTOCOLS[options.protocol](scores, faces.same, faces.fold, options.dist)
        scored.append(Scored(model, of, dali, embedding, verification, rows, scores, warning))
    return scored


def embeddings(
    options: argparse.Namespace, model: ScoredModel, faces: Faces, dali: DaliSettings, ranks: Ranks, flipped: bool
) -> NDArray[np.float32]:
    """Of all photographs as evaluate_lfw.py's options ask for them, [N, E] on every rank; with --cache kept ones."""
    mode, batch = options.flip_mode, options.val_batch_size

    def embedded() -> NDArray[np.float32]:
        return embed(model.network, faces, model.preprocessing, dali, ranks, batch, flipped, mode)

    if not options.cache:
        return embedded()
    devices = [ranks.device.type, dali.device]
    how = [options.averaged, mode if flipped else "", model.preprocessing.as_dict(), devices]
    return kept_or_embedded(Path(options.snap), model.digest, how, faces, ranks, embedded)


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
