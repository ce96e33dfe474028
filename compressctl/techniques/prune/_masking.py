"""One cut: scores of all layers to masks, and what SparseGPT does instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compressctl.core.data import Split
from compressctl.core.errors import StageError
from compressctl.core.technique import RunContext
from compressctl.layers.layer import Layer, by_position, from_positions
from compressctl.layers.network import Network
from compressctl.layers.statistics import hold_mean_output, input_grams, input_moments
from compressctl.numerics.masks import block_means, global_masks, layer_mask, n_of_m_mask, row_mask, spread
from compressctl.numerics.saliency import lamp, wanda
from compressctl.numerics.sparsegpt import Zeros, sparsegpt
from compressctl.techniques.prune._sparsity import Sparsities, Sparsity
from compressctl.techniques.prune.params import UnstructuredParams

Share = Callable[[float], float]
"""The share of zeros now, from a layer's share in the end."""

_LARGEST_GRAM = 16_384
"""Inputs of one output; the matrices of a wider layer take more than 4 GB while they are factorized."""
_GRAM_BYTES = 2**29
"""That the matrices of a round's layers may take together; one layer's may take more."""


def choose(
    scores: Mapping[str, np.ndarray], chosen: Sparsities, share: Share, *, is_global: bool
) -> dict[str, np.ndarray]:
    """A mask for each pruned layer, True where the weight stays.

    scores: by weight name, (out, positions, in). is_global: layers without an override share one threshold.
    """
    masks: dict[str, np.ndarray] = {}
    common = [name for name, sparsity in chosen.pruned.items() if is_global and not sparsity.own]
    if common:
        first = chosen.pruned[common[0]]
        found = global_masks([scores[name] for name in common], share(first.share), first.block)
        masks.update(zip(common, found, strict=True))
    for name, sparsity in chosen.pruned.items():
        if name not in masks:
            masks[name] = _mask(scores[name], sparsity, share(sparsity.share), by_row=False)
    return masks


def _mask(scores: np.ndarray, sparsity: Sparsity, share: float, *, by_row: bool) -> np.ndarray:
    """by_row: weights compete within their output channel."""
    if sparsity.n_of_m is not None:
        return n_of_m_mask(scores, kept_of(sparsity.n_of_m, share), sparsity.n_of_m[1])
    return (row_mask if by_row else layer_mask)(scores, share, sparsity.block)


def kept_of(ratio: tuple[int, int], share: float) -> int:
    """How many of M stay while the share of zeros rises to what N:M means: at 0.3 of 2:4 it is 3."""
    n, m = ratio
    return max(n, m - int(share * m + 1e-9))


def magnitudes(layers: Sequence[Layer], chosen: Sparsities, method: str) -> dict[str, np.ndarray]:
    """|w| of the pruned layers, or the LAMP score of their blocks."""
    scores = {layer.name: np.abs(layer.by_position) for layer in layers if layer.name in chosen.pruned}
    if method != "lamp":
        return scores
    return {
        name: spread(lamp(block_means(score, chosen.pruned[name].block)), chosen.pruned[name].block, score.shape)
        for name, score in scores.items()
    }


def cut(
    network: Network, chosen: Sparsities, share: Share, params: UnstructuredParams, split: Split | None, run: RunContext
) -> list[str]:
    """Make zeros, in place. Returns the layers that were judged by magnitude since their inputs could not be seen."""
    if params.method == "sparsegpt":
        assert split is not None, "the plan gives calibration data to a technique that needs it"
        return _cut_by_sparsegpt(network, chosen, share, params, split, run)
    layers = [layer for layer in network.layers() if layer.name in chosen.pruned]
    if params.method == "wanda":
        assert split is not None, "the plan gives calibration data to a technique that needs it"
        return _cut_by_wanda(network, layers, chosen, share, params, split, run)
    if params.is_global:
        masks = choose(magnitudes(layers, chosen, params.method), chosen, share, is_global=True)
        for layer in layers:
            _write(network, layer, _masked(layer, masks[layer.name]), None)
        return []
    for layer in layers:
        sparsity = chosen.pruned[layer.name]
        mask = _mask(np.abs(layer.by_position), sparsity, share(sparsity.share), by_row=False)
        _write(network, layer, _masked(layer, mask), None)
    return []


def _cut_by_wanda(
    network: Network,
    layers: Sequence[Layer],
    chosen: Sparsities,
    share: Share,
    params: UnstructuredParams,
    split: Split,
    run: RunContext,
) -> list[str]:
    """Layer by layer: scores of all of them would take as much memory as the network."""
    seen = input_moments(network, layers, split, run.seed)
    for layer in layers:
        moments, sparsity = seen.get(layer.name), chosen.pruned[layer.name]
        norms = np.ones(1) if moments is None else np.sqrt(by_position(moments.squares))
        mask = _mask(wanda(layer.by_position, norms), sparsity, share(sparsity.share), by_row=True)
        mean = moments.mean if moments is not None and params.bias_correction else None
        _write(network, layer, _masked(layer, mask), mean)
    return [layer.name for layer in layers if layer.name not in seen]


def _masked(layer: Layer, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, layer.by_position, np.float32(0))


def _write(network: Network, layer: Layer, pruned: np.ndarray, mean: np.ndarray | None) -> None:
    """Set the weight. mean: of what each weight multiplies; the bias makes up for what the outputs lose on average."""
    weight = from_positions(pruned, layer.weight.shape)
    network.write(layer.name, weight)
    if mean is not None:
        hold_mean_output(network, layer, weight, mean)


def _cut_by_sparsegpt(
    network: Network, chosen: Sparsities, share: Share, params: UnstructuredParams, split: Split, run: RunContext
) -> list[str]:
    """In rounds, in the order of the layers: what enters the later ones comes from layers that are pruned already."""
    unseen: list[str] = []
    wanted = [layer for layer in network.layers() if layer.name in chosen.pruned]
    _check_sizes(wanted)
    rounds = _rounds(wanted, params.rounds)
    del wanted
    for done, part in enumerate(rounds):
        layers = [layer for layer in network.layers() if layer.name in part]
        seen = input_grams(network, layers, split, run.seed)
        for layer in layers:
            sparsity, grams = chosen.pruned[layer.name], seen.pop(layer.name, None)
            if grams is None:
                unseen.append(layer.name)
                mask = _mask(np.abs(layer.by_position), sparsity, share(sparsity.share), by_row=False)
                pruned = np.where(mask, layer.by_position, np.float32(0))
            else:
                pruned = _sparsegpt(layer, grams.products, _zeros(sparsity, share), params.damping)
            mean = grams.mean if grams is not None and params.bias_correction else None
            _write(network, layer, pruned, mean)
        run.events.progress("pruning", done + 1, len(rounds))
    return unseen


def _rounds(layers: Sequence[Layer], wanted: int) -> list[set[str]]:
    """Names by round: as many rounds as are wanted, and more where the matrices of one would not fit in memory."""
    rounds: list[set[str]] = []
    for part in np.array_split(np.arange(len(layers)), min(wanted, len(layers))):
        taken = _GRAM_BYTES
        for layer in (layers[place] for place in part):
            size = layer.outline.groups * 8 * layer.weight[0].size ** 2
            if taken + size > _GRAM_BYTES:
                rounds.append(set())
                taken = 0
            rounds[-1].add(layer.name)
            taken += size
    return rounds


def _zeros(sparsity: Sparsity, share: Share) -> Zeros:
    now = share(sparsity.share)
    if sparsity.n_of_m is not None:
        return Zeros(n_of_m=(kept_of(sparsity.n_of_m, now), sparsity.n_of_m[1]))
    return Zeros(share=now, block=sparsity.block)


def _check_sizes(layers: Sequence[Layer]) -> None:
    for layer in layers:
        if layer.weight[0].size > _LARGEST_GRAM:
            raise StageError(
                f"{layer.name} has {layer.weight[0].size:,} inputs for one output, too many for sparsegpt's matrices",
                hint="use wanda, or keep the layer dense: overrides: [{match: ..., sparsity: 0}]",
            )


def _sparsegpt(layer: Layer, grams: np.ndarray, zeros: Zeros, damping: float) -> np.ndarray:
    """Each group of a grouped convolution has inputs, and so a matrix, of its own."""
    parts = np.split(layer.by_position, layer.outline.groups)
    return np.concatenate([sparsegpt(part, gram, zeros, damping) for part, gram in zip(parts, grams, strict=True)])
