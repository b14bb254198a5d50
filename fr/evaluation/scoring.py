"""Scoring of a model on verification sets from options, for evaluate_lfw.py and tools/compare_models.py."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.alignment import CENTER_CROP
from fr.console import print_lines, warn
from fr.data.faces import Faces, VerificationFaces
from fr.data.landmark_csv import qualities_of
from fr.data.pipeline import DaliSettings, dali_settings
from fr.data.verification_set import VerificationSet, sets_to_score
from fr.distributed import Ranks
from fr.errors import InputError
from fr.evaluation.embedding import Network, batch_size_on, embed, pair_scores, with_mirror_image
from fr.evaluation.embedding_cache import cached_embeddings
from fr.evaluation.groups import Groups
from fr.evaluation.histogram_protocol import verify_by_histogram
from fr.evaluation.score_check import Spread, deviation_warning
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


@dataclass(frozen=True)
class Embedder:
    """A model opened with the options of a tool, and the settings with which it embeds images on all ranks.

    flip_mode: combination with the embeddings of mirror images; "" = without mirror images.
    """

    options: argparse.Namespace
    model: ScoredModel
    flip_mode: str
    dali: DaliSettings
    ranks: Ranks

    @classmethod
    def open(cls, resolved: Resolved, ranks: Ranks, overriding: bool = True) -> "Embedder":
        """Open `--snap`. overriding: as in `open_model`. InputError also for --flip_mode without mirror images.

        Mirror images are used if --flipped_emb says so, or by default as in the training.
        """
        options = resolved.values
        model = open_model(options, ranks.device, overriding)
        explicit = resolved.origins["flipped_emb"] != "default"
        flipped = options.flipped_emb if explicit else model.config.get("flipped_emb")
        mode = getattr(options, "flip_mode", "sum")  # not every tool has the option
        if not flipped and mode != "sum":
            raise InputError(f"--flip_mode {mode}: no effect without --flipped_emb")
        dali = dali_settings(options.dali_device, options.dali_threads, ranks)
        return cls(options, model, mode if flipped else "", dali, ranks)

    @property
    def network(self) -> Network:
        """The model's network, combined with mirror images by `flip_mode`."""
        return with_mirror_image(self.model.network, self.flip_mode)

    @property
    def batch(self) -> int:
        """Images per forward pass, from --val_batch_size."""
        return batch_size_on(self.ranks.device, self.options.val_batch_size)

    def announce(self, set_warnings: Sequence[str] = ()) -> None:
        """On the first rank, print overrides and warnings known before images are read."""
        if not self.ranks.is_main:
            return
        print_lines(self.model.overrides)
        warnings = list(set_warnings)
        if self.model.unit_length and (self.flip_mode or self.options.dist == "l2"):
            how = "combined with the mirror image's as unit vectors" if self.flip_mode else "compared as unit vectors"
            warnings.append(
                f"{self.options.snap}: its embeddings have norm 1 (--l2_norm?): they are {how}, so scores, accuracy "
                "and threshold aren't those of the raw embeddings, which the training validated"
            )
        for warning in warnings:
            warn(warning)

    def embed(self, faces: Faces, what: str = "") -> NDArray[np.float32]:
        """Embeddings of all images, [N, E] on every rank; from the cache with --cache. what: for the progress bar."""
        options, model, dali, ranks = self.options, self.model, self.dali, self.ranks

        def compute() -> NDArray[np.float32]:
            return embed(self.network, faces, model.preprocessing, dali, ranks, self.batch, what)

        if not options.cache:
            return compute()
        devices = [ranks.device.type, dali.device]
        how = [options.averaged, self.flip_mode, model.preprocessing.as_dict(), devices]
        return cached_embeddings(Path(options.snap), model.digest, how, faces, ranks, compute)


def score(resolved: Resolved, ranks: Ranks, overriding: bool = True) -> list[Scored]:
    """Score `--snap` on each set with the options of evaluate_lfw.py; the same on every rank.

    overriding: as in `open_model`. InputError for invalid input of any set, before the first one is scored. The first
    rank prints overrides and warnings.
    """
    options = resolved.values
    embedder = Embedder.open(resolved, ranks, overriding)
    model, flip_mode = embedder.model, embedder.flip_mode
    sets = sets_to_score(vars(options), model.config, options.snap)
    groups = Groups.read(options, sets, needs_pairs=False)
    qualities = [_quality(options, one) for one in sets]
    if ranks.is_main:
        print_lines(resolved.notes)
        aligns = model.preprocessing.alignment != CENTER_CROP  # a centre crop needs no landmarks
        set_warnings = [one.warning for one in sets if aligns and one.warning]
        embedder.announce([*set_warnings, *groups.notes])
    embedding = _EMBEDDINGS[flip_mode] + (", less the set's mean" if options.center else "")
    scored = []
    for pair_set, quality in zip(sets, qualities, strict=True):
        faces = pair_set.faces
        rows = embedder.embed(faces, pair_set.name)
        scores = pair_scores(faces, rows, options.dist, options.center)
        now = Spread.measure(pair_set, pair_scores(faces, rows), options.averaged, flip_mode)
        if (warning := deviation_warning(now, model.noted)) and ranks.is_main:
            warn(warning)
        verification = PROTOCOLS[options.protocol](scores, faces.same, faces.fold, options.dist)
        found = embedding, verification, rows, scores, warning, bool(flip_mode), groups, quality
        scored.append(Scored(model, pair_set, embedder.dali, *found))
    return scored


def _quality(options: argparse.Namespace, pair_set: VerificationSet) -> NDArray[np.float64] | None:
    """Quality of a set's images [N] from --quality; InputError for images without one."""
    if not options.quality:
        return None
    return qualities_of(pair_set.faces.names, Path(options.quality), lambda _: pair_set.source)


_EMBEDDINGS = {
    "": "of the image alone",
    "sum": "mean of the image's and its mirror image's",
    "concat": "the image's and its mirror image's, concatenated",
}
