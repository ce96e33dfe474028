"""One cut: scores of all layers to masks, and what SparseGPT does instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compressctl.core.data import Split
from compressctl.core.errors import StageError
from compressctl.core.events import Events
from compressctl.numerics.masks import block_means, global_masks, layer_mask, n_of_m_mask, row_mask, spread
from compressctl.numerics.saliency import lamp, wanda
from compressctl.numerics.sparsegpt import Zeros, sparsegpt
from compressctl.techniques.prune._input_moments import input_grams, input_moments
from compressctl.techniques.prune._sparse_layers import Layer, Treated, Treatment, Weights
from compressctl.techniques.prune.params import UnstructuredParams

Share = Callable[[float], float]
"""The share of zeros now, from a layer's share in the end."""

_LARGEST_GRAM = 16_384
"""Inputs of one output; the matrices of a wider layer take more than 6 GB while they are inverted."""


def choose(
    scores: Mapping[str, np.ndarray], treated: Treated, share: Share, *, is_global: bool, by_row: bool = False
) -> dict[str, np.ndarray]:
    """A mask for each pruned layer, True where the weight stays.

    scores: by weight name, (out, positions, in). is_global: layers without an override share one threshold. by_row: weights
    compete within their output channel.
    """
    masks: dict[str, np.ndarray] = {}
    common = [name for name, treatment in treated.pruned.items() if is_global and not treatment.own]
    if common:
        first = treated.pruned[common[0]]
        found = global_masks([scores[name] for name in common], share(first.share), first.block)
        masks.update(zip(common, found, strict=True))
    for name, treatment in treated.pruned.items():
        if name not in masks:
            masks[name] = _mask(scores[name], treatment, share(treatment.share), by_row=by_row)
    return masks


def _mask(scores: np.ndarray, treatment: Treatment, share: float, *, by_row: bool) -> np.ndarray:
    if treatment.n_of_m is not None:
        return n_of_m_mask(scores, kept_of(treatment.n_of_m, share), treatment.n_of_m[1])
    return (row_mask if by_row else layer_mask)(scores, share, treatment.block)


def kept_of(ratio: tuple[int, int], share: float) -> int:
    """How many of M stay while the share of zeros rises to what N:M means: at 0.3 of 2:4 it is 3."""
    n, m = ratio
    return max(n, m - int(share * m + 1e-9))


def magnitudes(layers: Sequence[Layer], treated: Treated, method: str) -> dict[str, np.ndarray]:
    """|w| of the pruned layers, or the LAMP score of their blocks."""
    scores = {layer.name: np.abs(layer.weight) for layer in layers if layer.name in treated.pruned}
    if method != "lamp":
        return scores
    return {
        name: spread(lamp(block_means(score, treated.pruned[name].block)), treated.pruned[name].block, score.shape)
        for name, score in scores.items()
    }


def cut(
    weights: Weights, treated: Treated, share: Share, params: UnstructuredParams, split: Split | None, events: Events
) -> list[str]:
    """Make zeros, in place. Returns the layers that were judged by magnitude since their inputs could not be seen."""
    if params.method == "sparsegpt":
        assert split is not None, "the plan gives calibration data to a technique that needs it"
        return _cut_by_sparsegpt(weights, treated, share, params, split, events)
    layers = [layer for layer in weights.layers() if layer.name in treated.pruned]
    unseen: list[str] = []
    means: dict[str, np.ndarray] = {}
    if params.method == "wanda":
        assert split is not None, "the plan gives calibration data to a technique that needs it"
        seen = input_moments(weights, layers, split)
        means = {name: moments.mean for name, moments in seen.items()}
        norms = {name: np.sqrt(moments.squares) for name, moments in seen.items()}
        unseen = [layer.name for layer in layers if layer.name not in norms]
        means = means if params.bias_correction else {}
        scores = {layer.name: wanda(layer.weight, norms.get(layer.name, np.ones(1))) for layer in layers}
        masks = choose(scores, treated, share, is_global=False, by_row=True)
    else:
        masks = choose(magnitudes(layers, treated, params.method), treated, share, is_global=params.is_global)
    for layer in layers:
        _write(
            weights, layer, np.where(masks[layer.name], layer.weight, layer.weight.dtype.type(0)), means.get(layer.name)
        )
    return unseen


def _write(weights: Weights, layer: Layer, pruned: np.ndarray, mean: np.ndarray | None) -> None:
    """Set the weight. mean: of what each weight multiplies; the bias makes up for what the outputs lose on average."""
    weights.write(layer.name, pruned)
    if mean is not None:
        lost = ((layer.weight - pruned) * mean).sum(axis=(1, 2))
        weights.shift(layer.name, lost.astype(np.float32))


def _cut_by_sparsegpt(
    weights: Weights, treated: Treated, share: Share, params: UnstructuredParams, split: Split, events: Events
) -> list[str]:
    """In rounds, in the order of the layers: what enters the later ones comes from layers that are pruned already."""
    names = [layer.name for layer in weights.layers() if layer.name in treated.pruned]
    unseen: list[str] = []
    for done, chosen in enumerate(np.array_split(names, min(params.rounds, len(names)))):
        layers = {layer.name: layer for layer in weights.layers() if layer.name in set(chosen)}
        _check_sizes(list(layers.values()))
        means, grams = input_grams(weights, list(layers.values()), split)
        for name, layer in layers.items():
            treatment = treated.pruned[name]
            if name in grams:
                pruned = _sparsegpt(layer, grams.pop(name), _zeros(treatment, share), params.damping)
            else:
                unseen.append(name)
                mask = _mask(np.abs(layer.weight), treatment, share(treatment.share), by_row=False)
                pruned = np.where(mask, layer.weight, layer.weight.dtype.type(0))
            _write(weights, layer, pruned, means.get(name) if params.bias_correction else None)
        events.progress("pruning", done + 1, min(params.rounds, len(names)))
    return unseen


def _zeros(treatment: Treatment, share: Share) -> Zeros:
    now = share(treatment.share)
    if treatment.n_of_m is not None:
        return Zeros(n_of_m=(kept_of(treatment.n_of_m, now), treatment.n_of_m[1]))
    return Zeros(share=now, block=treatment.block)


def _check_sizes(layers: Sequence[Layer]) -> None:
    for layer in layers:
        if layer.weight[0].size > _LARGEST_GRAM:
            raise StageError(
                f"{layer.name} has {layer.weight[0].size:,} inputs for one output, too many for sparsegpt's matrices",
                hint="use wanda, or keep the layer dense: overrides: [{match: ..., sparsity: 0}]",
            )


def _sparsegpt(layer: Layer, grams: np.ndarray, zeros: Zeros, damping: float) -> np.ndarray:
    """Each group of a grouped convolution has inputs, and so a matrix, of its own."""
    parts = np.split(layer.weight, layer.groups)
    return np.concatenate([sparsegpt(part, gram, zeros, damping) for part, gram in zip(parts, grams, strict=True)])
