"""Data of language models, checked and completed: every batch has labels, which are the tokens themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from compressctl.core.data import Batch, Dataset, Split, SplitName, WrappedDataset
from compressctl.core.errors import UsageError
from compressctl.numerics.next_token import IGNORED_LABEL

ATTENTION_MASK = "attention_mask"
_TOKENS = "input_ids"
_NO_TOKENS = (ATTENTION_MASK, "token_type_ids", "position_ids", "cache_position")
_CHECKED_SAMPLES = 64
_NEARLY_ALL = 0.9
"""Of the labels that count: a tokenizer may treat a few positions of its own way, such as the first and the last."""


class TokenDataset(WrappedDataset):
    """A dataset whose batches have labels by the convention of `numerics/next_token.py`.

    Where it has none, the input tokens are the labels. Padded positions (attention_mask 0) are -100, and so is the first
    token behind padding, which nothing predicts.
    """

    @property
    def classes(self) -> None:
        return None

    def split(self, name: SplitName) -> Split:
        return TokenSplit(self.own.split(name))


@dataclass(frozen=True)
class TokenSplit:
    own: Split

    def __len__(self) -> int:
        return len(self.own)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for batch in self.own.batches(size, shuffle_seed=shuffle_seed):
            yield replace(batch, labels=labels_of(batch))


def language_model_data(dataset: Dataset) -> Dataset:
    """The dataset with labels, once a few samples of each split have been looked at.

    Raises UsageError for labels of another shape or type than the tokens, and for labels that are not the tokens: shifted by
    one already, or something else altogether.
    """
    for name in get_args(SplitName):
        batch = next(iter(dataset.split(name).batches(_CHECKED_SAMPLES)), None)
        if batch is not None:
            _check_convention(batch, name)
    return TokenDataset(dataset)


def labels_of(batch: Batch) -> np.ndarray | None:
    """(n, tokens) int64: the batch's labels, else its tokens, -100 where padding is. None without either.

    Raises UsageError for labels that do not have the shape of the tokens.
    """
    tokens = tokens_of(batch.inputs)
    if batch.labels is None and tokens is None:
        return None
    labels = tokens if batch.labels is None else batch.labels
    assert labels is not None
    _check_shape(labels, tokens)
    mask = batch.inputs.get(ATTENTION_MASK)
    if mask is None or mask.shape != labels.shape:
        return labels.astype(np.int64)
    is_real = np.asarray(mask) != 0
    # The logits at a padded position say nothing: with padding on the left they stand before the first token.
    is_counted = is_real & np.concatenate([is_real[:, :1], is_real[:, :-1]], axis=1)
    return np.where(is_counted, labels, IGNORED_LABEL).astype(np.int64)


def tokens_of(inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The input that holds token ids, (n, tokens): `input_ids`, else the first one of whole numbers that is no mask."""
    named = {name: array for name, array in inputs.items() if array.dtype.kind in "iu" and array.ndim == 2}
    if _TOKENS in named:
        return named[_TOKENS]
    return next((array for name, array in named.items() if name not in _NO_TOKENS), None)


def _check_shape(labels: np.ndarray, tokens: np.ndarray | None) -> None:
    if labels.dtype.kind not in "iu":
        raise UsageError(
            f"the labels of a language model are token ids, whole numbers, and these are {labels.dtype}", hint=_MEND
        )
    if labels.ndim != 2 or (tokens is not None and labels.shape != tokens.shape):
        wanted = "(samples, tokens)" if tokens is None else f"{list(tokens.shape)}"
        raise UsageError(
            f"the labels of a language model are the tokens themselves, in their shape: {wanted}, and these are "
            f"{list(labels.shape)}",
            hint=_MEND,
        )


def _check_convention(batch: Batch, split: SplitName) -> None:
    tokens, given = tokens_of(batch.inputs), batch.labels
    labels = labels_of(batch)
    if tokens is None or labels is None or given is None:
        return
    if tokens.shape[1] < 2:
        return
    same, shifted = _share_alike(labels, tokens), _share_alike(labels[:, :-1], tokens[:, 1:])
    if shifted >= _NEARLY_ALL and shifted > same:
        raise UsageError(
            f"the labels of the {split} split are shifted already: the label at each position is the token after it. Labels "
            f"of a language model are the tokens themselves; training and measuring shift them",
            hint=_MEND,
        )
    if same < 0.5:
        raise UsageError(
            f"the labels of the {split} split are not the tokens: {same:.0%} of those that count are equal to the input at "
            f"their position. Labels of a language model are the tokens themselves, and each is predicted from those before it",
            hint=f"{_MEND}; for a model that predicts something else, such as masked tokens, write `task: custom`",
        )


def _share_alike(labels: np.ndarray, tokens: np.ndarray) -> float:
    """Of the labels that count; 1 where none does."""
    is_counted = labels != IGNORED_LABEL
    return float(np.mean(labels[is_counted] == tokens[is_counted])) if is_counted.any() else 1.0


_MEND = f"give the input tokens as labels, or none; {IGNORED_LABEL} where a token does not count"
