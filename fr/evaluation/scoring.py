"""Scoring of a model on verification sets from options, for evaluate_lfw.py and tools/compare_models.py."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.alignment import CENTER_CROP
from fr.data.faces import Faces, VerificationFaces
from fr.data.landmark_csv import qualities_of
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.verification_set import VerificationSet, sets_to_score
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation.embedding import batch_size_on, embed, pair_scores
from fr.evaluation.embedding_cache import kept_or_embedded
from fr.evaluation.groups import Groups
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.score_check import Spread, strange
from fr.evaluation.scored_model import ScoredModel, open_model
from fr.evaluation.verification import Verification, verify
from fr.options.parsing import Resolved

PROTOCOLS = {"standard": verify, "histogram": verify_by_histogram}


@dataclass(frozen=True)
class Scored:
    """Model, scored set, embeddings [N, E] and scores [P] of its pairs.

    embedding: description of the computation. warning: from the score check; "" = none. flipped: embeddings include
    those of mirror images. groups: of all sets. quality: of the images, from --quality [N]; None without the option.
    """

    model: ScoredModel
    pair_set: VerificationSet
    dali: DaliSettings
    embedding: str
    verification: Verification
    embeddings: NDArray[np.float32]
    scores: NDArray[np.float64]
    warning: str
    flipped: bool
    groups: Groups
    quality: NDArray[np.float64] | None

    @property
    def faces(self) -> VerificationFaces:
        return self.pair_set.faces


def score(resolved: Resolved, ranks: Ranks, overriding: bool = True) -> list[Scored]:
    """Score `--snap` on each set with the options of evaluate_lfw.py; the same on every rank.

    overriding: as in `open_model`. InputError for invalid input of any set, before the first one is scored. The first
    rank prints overrides and warnings.
    """
    options = resolved.values
    model = open_model(options, ranks.device, overriding)
    sets = sets_to_score(vars(options), model.config, options.snap)
    groups = Groups.read(options, sets)
    qualities = [_quality(options, one) for one in sets]
    flipped = wants_flip(resolved, model)
    if ranks.is_main:
        print("".join(f"{note}\n" for note in resolved.notes), end="", flush=True)
        aligns = model.preprocessing.alignment != CENTER_CROP  # a centre crop needs no landmarks
        doubts = [doubt for one in sets if aligns and (doubt := one.doubt)]
        announce(model, options, flipped, [*doubts, *groups.notes])
    dali = dali_settings(options.dali_device, options.dali_threads, ranks)
    embedding = _EMBEDDINGS[options.flip_mode if flipped else ""] + (", less the set's mean" if options.center else "")
    scored = []
    for pair_set, quality in zip(sets, qualities, strict=True):
        faces = pair_set.faces
        rows = embeddings(options, model, faces, dali, ranks, flipped)
        scores = pair_scores(faces, rows, options.dist, options.center)
        now = Spread.measure(pair_set, pair_scores(faces, rows), options.averaged, options.flip_mode if flipped else "")
        if (warning := strange(now, model.noted)) and ranks.is_main:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        verification = PROTOCOLS[options.protocol](scores, faces.same, faces.fold, options.dist)
        found = embedding, verification, rows, scores, warning, flipped, groups, quality
        scored.append(Scored(model, pair_set, dali, *found))
    return scored


def _quality(options: argparse.Namespace, pair_set: VerificationSet) -> NDArray[np.float64] | None:
    """Quality of a set's images [N] from --quality; InputError for images without one."""
    if not options.quality:
        return None
    return qualities_of(pair_set.faces.names, Path(options.quality), lambda _: pair_set.source)


def announce(model: ScoredModel, options: argparse.Namespace, flipped: bool, doubts: Sequence[str] = ()) -> None:
    """Print overrides, and warnings that are known before images are read. doubts: warnings about the sets."""
    if model.overrides:
        print("\n".join(model.overrides), flush=True)
    warnings = list(doubts)
    if model.unit_length and (flipped or options.dist == "l2"):
        how = "combined with the mirror image's as unit vectors" if flipped else "compared as unit vectors"
        warnings.append(
            f"{options.snap}: its embeddings have norm 1 (--l2_norm?): they are {how}, so scores, accuracy and "
            "threshold aren't those of the raw embeddings, which the training validated"
        )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def embeddings(
    options: argparse.Namespace, model: ScoredModel, faces: Faces, dali: DaliSettings, ranks: Ranks, flipped: bool
) -> NDArray[np.float32]:
    """Embeddings of all images with evaluate_lfw.py's options, [N, E] on every rank; from the cache with --cache."""
    mode, batch = options.flip_mode, batch_size_on(ranks.device, options.val_batch_size)

    def compute() -> NDArray[np.float32]:
        return embed(model.network, faces, model.preprocessing, dali, ranks, batch, flipped, mode)

    if not options.cache:
        return compute()
    devices = [ranks.device.type, dali.device]
    how = [options.averaged, mode if flipped else "", model.preprocessing.as_dict(), devices]
    return kept_or_embedded(Path(options.snap), model.digest, how, faces, ranks, compute)


def wants_flip(resolved: Resolved, model: ScoredModel) -> bool:
    """Return True if mirror images are used: by --flipped_emb, or as in the training. Checks --flip_mode."""
    options = resolved.values
    explicit = resolved.origins["flipped_emb"] != "default"
    flipped = bool(options.flipped_emb if explicit else model.config.get("flipped_emb"))
    mode = getattr(options, "flip_mode", "sum")  # not every tool has the option
    if not flipped and mode != "sum":
        raise InputError(f"--flip_mode {mode}: no effect without --flipped_emb")
    return flipped


_EMBEDDINGS = {
    "": "of the image alone",
    "sum": "mean of the image's and its mirror image's",
    "concat": "the image's and its mirror image's, concatenated",
}
