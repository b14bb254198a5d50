"""Template verification, as on IJB-B and IJB-C: embeddings of images → embeddings of templates → scores of pairs.

Letters: N images, E embedding size, T templates, P pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fr.evaluation.bootstrap import tar_name
from fr.evaluation.roc import FARS, area, equal_error_rate, false_matches, roc_curve, tar_at

_COLUMNS = 64  # embedding columns per block in float64: a copy of all would be twice as large as the embeddings
_PAIRS = 2048  # per block: the rows of both sides fit the processor's cache


def pool(
    embeddings: NDArray[np.float32],
    template: NDArray[np.int64],
    media: NDArray[np.int64],
    weight: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Template embeddings of norm 1: sum over a template's media of the mean over each medium's images.

    embeddings: [N, E], not normalised, so that an image with a low norm (a poor image) has less weight. template: [N]
    from 0 without gaps. media: [N]; equal numbers in two templates are two media. weight: [N] of the images, such as
    the detector's scores. Returns [T, E] (insightface's eval_ijbc.py, N1 D1; a zero sum stays zero).
    """
    _, group, count = np.unique(np.stack([template, media]), axis=1, return_inverse=True, return_counts=True)
    shares = 1.0 / count[group.reshape(-1)] * (1.0 if weight is None else weight)
    places = (template, np.arange(len(template)))
    matrix = csr_array((shares, places), shape=(int(template.max()) + 1, len(template)))
    pooled = np.empty((matrix.shape[0], embeddings.shape[1]))
    for first in range(0, pooled.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        pooled[:, columns] = matrix @ embeddings[:, columns].astype(np.float64)
    norms = np.linalg.norm(pooled, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (pooled / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return unit


def template_scores(templates: NDArray[np.float32], pairs: NDArray[np.int32]) -> NDArray[np.float64]:
    """Cosines [P] of pairs [P, 2] of templates [T, E] of norm 1."""
    scores = np.empty(len(pairs))
    for first in range(0, len(pairs), _PAIRS):
        left, right = pairs[first : first + _PAIRS].T
        scores[first : first + _PAIRS] = np.einsum("pe,pe->p", templates[left], templates[right])
    return scores


def template_metrics(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> dict[str, float | None]:
    """TAR at each of FARS, EER and AUC of pairs [P]; None for a FAR that allows no false match."""
    roc = roc_curve(scores, same)
    different = int(np.count_nonzero(~same))
    tars = {
        tar_name(far): float(tar_at(roc.far, roc.tar, far)) if false_matches(far, different) else None for far in FARS
    }
    return {**tars, "eer": float(equal_error_rate(roc.far, roc.tar)), "auc": float(area(roc.far, roc.tar))}
