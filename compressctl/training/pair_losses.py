"""Losses between the vectors of pairs and the pairs' scores. Two samples in a row are a pair, whose score both have as label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.core.data import Tuples
from compressctl.core.errors import UsageError
from compressctl.core.tasks import PairLoss

COSENT_SCALE = 20.0
"""Of Su's own code and of sentence-transformers: a difference of cosines of 0.05 counts as one of 1 in the exponent."""

_ROUNDING = 1e-4
"""By which a cosine that a score stands for may be beyond 1."""


def pair_loss(name: PairLoss, outputs: Tensor, labels: Tensor, tuples: Tuples) -> Tensor:
    """The named loss of a batch of pairs. outputs: (2n, ...), rows 2i and 2i + 1 a pair. labels: (2n,), a pair's score on both its rows.

    Raises UsageError where the samples are no pairs, or their labels no scores.
    """
    _check_pairs(name, outputs, labels, tuples)
    vectors, scores = outputs.float().flatten(1), labels[::2].float()
    similarity = functional.cosine_similarity(vectors[::2], vectors[1::2])
    if name == "cosine":
        return squared_error(similarity, wanted_cosines(scores, tuples))
    return cosent(similarity, scores)


def cosent(similarity: Tensor, scores: Tensor, scale: float = COSENT_SCALE) -> Tensor:
    """log(1 + sum of exp(scale * (similarity[j] - similarity[i])) over all pairs i, j with scores[i] > scores[j]).

    similarity, scores: (n,). Only the order of the scores counts. 0 where no two scores differ.
    Source: Su 2022, CoSENT (kexue.fm/archives/8847); Huang et al. 2024, CoSENT: Consistent Sentence Embedding via Similarity Ranking,
    IEEE/ACM TASLP 32, p. 2800.
    """
    shall_be_less = scores[:, None] > scores[None, :]
    exceeds = scale * (similarity[None, :] - similarity[:, None])[shall_be_less]
    return torch.cat([exceeds, exceeds.new_zeros(1)]).logsumexp(0) + similarity.sum() * 0


def squared_error(similarity: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of cosines and those that are wanted, (n,) both.

    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3 (regression objective).
    """
    return functional.mse_loss(similarity, wanted)


def wanted_cosines(scores: Tensor, tuples: Tuples) -> Tensor:
    """Scores on the scale on which `score_range` is 0 to 1. Raises UsageError where one is then no cosine."""
    low, high = tuples.score_range
    wanted = (scores - low) / (high - low) if high > low else torch.full_like(scores, torch.inf)
    farthest = int(wanted.abs().argmax())
    if not wanted[farthest].abs() <= 1 + _ROUNDING:
        raise UsageError(
            f"a pair has the score {scores[farthest]:g}, which is no cosine where {low:g} stands for 0 and {high:g} for 1",
            hint="say which scores do, as in `data: {score_range: [0, 5]}`; loss cosent asks for the scores' order alone",
        )
    return wanted


def _check_pairs(name: PairLoss, outputs: Tensor, labels: Tensor, tuples: Tuples) -> None:
    if tuples.size != 2:
        raise UsageError(
            f"loss {name} compares the two samples of a pair, and the data's samples do not come in pairs",
            hint="`data: {source: sentence_pairs}` holds pairs; leave `loss` out to train on wanted vectors or classes",
        )
    if labels.ndim != 1:
        raise UsageError(
            f"loss {name} takes a score for each pair, labels of the shape (n,), and these are {list(labels.shape)}",
            hint="leave `loss` out to train on wanted vectors",
        )
    if len(outputs) != len(labels) or len(labels) % 2 or not torch.equal(labels[::2], labels[1::2]):
        raise UsageError(
            f"loss {name} takes two samples in a row with the same score, and a batch of {len(labels)} samples holds others",
            hint="a dataset of your own with `tuples` gives whole pairs, and a pair's score on both its samples",
        )
