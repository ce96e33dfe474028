"""share.kmeans: the weights of each layer take few values, chosen by k-means, and are trained there where the params say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.untouched import Untouched
from compressctl.graph.where_weights import layers_hint
from compressctl.techniques.prune._input_moments import Moments, input_grams, input_moments
from compressctl.techniques.prune._sparse_layers import Layer, Weights, with_weights
from compressctl.techniques.share._compensate import compensate
from compressctl.techniques.share._layers import Chosen, as_rows, choose, from_rows, open_weights
from compressctl.techniques.share._shared import Shared, Treatment, share
from compressctl.techniques.share.params import KmeansParams

_FLOOR = 1e-3
"""Of a layer's mean importance: weights that no gradient reached still count a little."""

_LARGEST_GRAM = 8192
"""Inputs of one output up to which their products are held: half a gigabyte."""

_ROWS = 256
"""Inputs of one layer that one batch contributes: means of thousands are known well enough, and cutting patches takes long."""


_READS = "linear layers, convolutions and attention's projections"


def apply(model: Model, params: KmeansParams, run: RunContext) -> StageResult:
    """Share, and train where the params say so. Raises NothingToCompressError when no layer can be shared."""
    weights, carried = open_weights(model, params, run)
    layers = weights.layers()
    chosen = choose(layers, params)
    if not chosen.shared:
        left = [f"{name}: {why}" for name, why in list({**chosen.left, **weights.skipped}.items())[:3]]
        reasons = "; ".join([*left, *(carried.said if carried is not None else ())])
        raise NothingToCompressError(
            (
                "nothing to share: overrides leave no linear layer or convolution"
                if layers
                else "nothing to share: no linear layer or convolution with a weight that this stage can change"
            )
            + (f" ({reasons})" if reasons else ""),
            hint=layers_hint(model),
        )
    layers = [layer for layer in layers if layer.name in chosen.shared]
    moments, grams = _inputs(weights, layers, params, run)
    heavy = _importance(model, weights, layers, moments, params, run)
    facts: dict[str, Any] = {} if carried is None else dict(carried.facts)
    if params.budget is not None:
        from compressctl.techniques.share._budget import within_budget

        chosen, facts["budget"] = within_budget(model, weights, layers, chosen, heavy, params, run)
    found = {layer.name: _shared(layer, chosen.shared[layer.name], params, heavy, run) for layer in layers}
    for number, layer in enumerate(layers):
        if layer.name in grams:
            found[layer.name] = compensate(as_rows(layer.weight), found[layer.name], grams.pop(layer.name))
            run.events.progress("compensating", number + 1, len(layers))
    for layer in layers:
        write(weights, layer, found[layer.name])
        if params.corrects_bias and layer.name in moments:
            _correct_bias(weights, layer, found[layer.name], moments[layer.name])
    ours = with_weights(model, weights, None if carried is None else carried.plan)
    before = _errors(layers, found, heavy)
    if params.finetune is not None:
        assert isinstance(ours, TorchModel), "the check refuses to train a graph"
        from compressctl.techniques.share._finetune import finetune

        found, facts["finetune"] = finetune(ours, found, params, run)
    untouched = Untouched("share.kmeans", _READS, chosen.shared, {**chosen.left, **weights.skipped})
    unshared = untouched.facts(ours, run.events)
    return StageResult(ours, {**_facts(layers, found, chosen, weights, before), **unshared, **facts})


def write(weights: Weights, layer: Layer, shared: Shared) -> None:
    weights.write(layer.name, from_rows(shared.values(), layer.weight.shape))


def _shared(
    layer: Layer, treatment: Treatment, params: KmeansParams, heavy: Mapping[str, np.ndarray], run: RunContext
) -> Shared:
    rng = np.random.default_rng([run.seed, layer.weight.size])
    try:
        return share(as_rows(layer.weight), treatment, params, heavy.get(layer.name), rng)
    except ValueError as error:
        raise StageError(f"{layer.name}: {error}", hint="check the weights that the model was loaded with") from error


def _inputs(
    weights: Weights, layers: Sequence[Layer], params: KmeansParams, run: RunContext
) -> tuple[dict[str, Moments], dict[str, np.ndarray]]:
    """What enters each layer, where anything asks for it: moments, and (groups, columns, columns) sums of products."""
    if not (params.corrects_bias or params.compensate or params.importance == "activation"):
        return {}, {}
    split = run.data.split("calibration") if run.data is not None else None
    if split is None or len(split) == 0:
        return {}, {}
    if not params.compensate:
        return input_moments(weights, layers, split, _ROWS), {}
    # One pass for both: the diagonal of the products is the energy.
    fitting = {layer.name: layer for layer in layers if layer.weight[0].size <= _LARGEST_GRAM}
    means, grams = input_grams(weights, list(fitting.values()), split, _ROWS)
    moments = {name: Moments(means[name], _energy(gram, fitting[name]), 1) for name, gram in grams.items()}
    rest = [layer for layer in layers if layer.name not in moments]
    if rest:
        moments |= input_moments(weights, rest, split, _ROWS)
    return moments, {name: _in_order(gram, fitting[name].weight.shape) for name, gram in grams.items()}


def _energy(gram: np.ndarray, layer: Layer) -> np.ndarray:
    """In the shape of the layer's weight."""
    out, positions, channels = layer.weight.shape
    by_group = np.diagonal(gram, axis1=1, axis2=2).reshape(layer.groups, positions, channels)
    return np.repeat(by_group, out // layer.groups, axis=0)


def _in_order(gram: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Columns as (channel, position) instead of (position, channel)."""
    _, positions, channels = shape
    order = np.arange(positions * channels).reshape(positions, channels).T.reshape(-1)
    return gram[:, order][:, :, order]


def _importance(
    model: Model,
    weights: Weights,
    layers: Sequence[Layer],
    moments: Mapping[str, Moments],
    params: KmeansParams,
    run: RunContext,
) -> dict[str, np.ndarray]:
    """By layer, (rows, columns); empty where all weights count alike."""
    found: dict[str, np.ndarray] = {}
    if params.importance == "activation":
        found = {name: as_rows(moment.squares) / moment.count for name, moment in moments.items()}
    elif params.importance == "fisher":
        from compressctl.techniques.prune._sparse_torch import to_canonical
        from compressctl.techniques.share._fisher import fisher

        assert run.data is not None, "the plan gives calibration data to a technique that needs it"
        names = [layer.name for layer in layers]
        gradients = fisher(weights.body(), names, run.data.split("calibration"), model.signature, run.task)
        found = {name: as_rows(to_canonical(values)) for name, values in gradients.items()}
    return {name: values + _FLOOR * max(float(values.mean()), 1e-30) for name, values in found.items()}


def _correct_bias(weights: Weights, layer: Layer, shared: Shared, moments: Moments) -> None:
    """A layer is linear in its input, so that its mean input tells by how much each output moves on average."""
    moved = layer.weight - from_rows(shared.values(), layer.weight.shape)
    weights.shift(layer.name, (moved * moments.mean).sum(axis=(1, 2)).astype(np.float32))


def _errors(layers: Sequence[Layer], found: Mapping[str, Shared], heavy: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By layer: weighted squared error, as a share of the weighted squared weights."""
    errors = {}
    for layer in layers:
        rows = as_rows(layer.weight).astype(np.float64)
        weight = heavy.get(layer.name, np.ones(1))
        whole = float((weight * rows**2).sum())
        errors[layer.name] = float((weight * (rows - found[layer.name].values()) ** 2).sum()) / max(whole, 1e-30)
    return errors


def _facts(
    layers: Sequence[Layer],
    found: Mapping[str, Shared],
    chosen: Chosen,
    weights: Weights,
    errors: Mapping[str, float],
) -> dict[str, Any]:
    """bits_per_weight: of an ideal entropy coder, codebooks included."""
    count = sum(layer.weight.size for layer in layers)
    return {
        "layers": {
            layer.name: {
                "clusters": int(found[layer.name].codebook.shape[1]),
                "granularity": chosen.shared[layer.name].granularity,
                "relative_error": round(errors[layer.name], 6),
                "bits_per_weight": round(found[layer.name].bits / layer.weight.size, 3),
            }
            for layer in layers
        },
        "shared_weights": count,
        "bits_per_weight": round(sum(shared.bits for shared in found.values()) / count, 3),
        "left": {**chosen.left, **weights.skipped},
    }
