"""share.kmeans: the weights of each layer take few values, chosen by k-means, and are trained there where the params say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.errors import StageError
from compressctl.core.model import Model, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.untouched import Untouched
from compressctl.layers.layer import Layer
from compressctl.layers.network import Network, facts_of, nothing_to, open_network
from compressctl.layers.statistics import Moments, hold_mean_output, input_grams, input_moments
from compressctl.techniques.share._codebooks import Chosen, as_rows, choose
from compressctl.techniques.share._compensate import compensate
from compressctl.techniques.share._shared import Codebooks, Shared, share
from compressctl.techniques.share.params import KmeansParams

_FLOOR = 1e-3
"""Of a layer's mean importance: weights that no gradient reached still count a little."""

_LARGEST_GRAM = 8192
"""Inputs of one output up to which their products are held: half a gigabyte."""

_ROWS = 256
"""Inputs of one layer that one batch contributes: means of thousands are known well enough, and cutting patches takes long."""


_READS = "linear and recurrent layers, convolutions and attention's projections"


def apply(model: Model, params: KmeansParams, run: RunContext) -> StageResult:
    """Share, and train where the params say so. Raises NothingToCompressError when no layer can be shared."""
    # Few values are few values whichever way a matrix is read.
    network = open_network(model, run.events, embeddings=params.embeddings, matrices=True, any_order=True)
    layers = network.layers()
    chosen = choose(layers, params)
    if not chosen.shared:
        raise nothing_to("share", model, network, chosen.left)
    layers = [layer for layer in layers if layer.name in chosen.shared]
    moments, grams = inputs_of(network, layers, params, run)
    heavy = _importance(model, network, layers, moments, params, run)
    facts: dict[str, Any] = facts_of(network)
    if params.budget is not None:
        from compressctl.techniques.share._budget import within_budget

        chosen, facts["budget"] = within_budget(network, layers, chosen, heavy, params, run)
    found = {layer.name: shared_of(layer, chosen.shared[layer.name], params, heavy, run) for layer in layers}
    for number, layer in enumerate(layers):
        if layer.name in grams:
            found[layer.name] = compensate(as_rows(layer.weight), found[layer.name], grams.pop(layer.name))
            run.events.progress("compensating", number + 1, len(layers))
    for layer in layers:
        weight = found[layer.name].values().reshape(layer.weight.shape)
        network.write(layer.name, weight)
        if params.corrects_bias and layer.name in moments:
            hold_mean_output(network, layer, weight, moments[layer.name].mean)
    ours = network.model()
    before = _errors(layers, found, heavy)
    if params.finetune is not None:
        assert isinstance(ours, TorchModel), "the params refuse to train a graph"
        from compressctl.techniques.share._finetune import finetune

        found, facts["finetune"] = finetune(ours, found, params, run)
    untouched = Untouched("share.kmeans", _READS, chosen.shared, {**chosen.left, **network.skipped})
    unshared = untouched.facts(ours, run.events)
    return StageResult(ours, {**_facts(layers, found, chosen, network, before), **unshared, **facts})


def shared_of(
    layer: Layer, codebooks: Codebooks, params: KmeansParams, heavy: Mapping[str, np.ndarray], run: RunContext
) -> Shared:
    """Each weight at the entry that is nearest. heavy: by layer, what an error counts. Raises StageError for weights that are not finite."""
    rng = np.random.default_rng([run.seed, layer.weight.size])
    try:
        return share(as_rows(layer.weight), codebooks, params, heavy.get(layer.name), rng)
    except ValueError as error:
        raise StageError(f"{layer.name}: {error}", hint="check the weights that the model was loaded with") from error


def inputs_of(
    network: Network, layers: Sequence[Layer], params: KmeansParams, run: RunContext
) -> tuple[dict[str, Moments], dict[str, np.ndarray]]:
    """What enters each layer, where anything asks for it: moments, and (groups, columns, columns) means of products."""
    if not (params.corrects_bias or params.compensate or params.importance == "activation"):
        return {}, {}
    split = run.data.split("calibration") if run.data is not None else None
    if split is None or len(split) == 0:
        return {}, {}
    if not params.compensate:
        return input_moments(network, layers, split, run.seed, _ROWS), {}
    # One pass for both: the diagonal of the products is the energy.
    fitting = [layer for layer in layers if layer.weight[0].size <= _LARGEST_GRAM]
    seen = input_grams(network, fitting, split, run.seed, _ROWS)
    moments = {
        layer.name: Moments(seen[layer.name].mean, _energy(seen[layer.name].products, layer), 1)
        for layer in fitting
        if layer.name in seen
    }
    rest = [layer for layer in layers if layer.name not in moments]
    if rest:
        moments |= input_moments(network, rest, split, run.seed, _ROWS)
    return moments, {layer.name: _in_order(seen[layer.name].products, layer) for layer in fitting if layer.name in seen}


def _energy(gram: np.ndarray, layer: Layer) -> np.ndarray:
    """In the shape of the layer's weight."""
    by_group = np.diagonal(_in_order(gram, layer), axis1=1, axis2=2)
    return np.repeat(by_group, len(layer.weight) // layer.outline.groups, axis=0).reshape(layer.weight.shape)


def _in_order(gram: np.ndarray, layer: Layer) -> np.ndarray:
    """Columns as (channel, position) instead of (position, channel)."""
    channels = layer.weight.shape[1]
    order = np.arange(gram.shape[1]).reshape(-1, channels).T.reshape(-1)
    return gram[:, order][:, :, order]


def _importance(
    model: Model,
    network: Network,
    layers: Sequence[Layer],
    moments: Mapping[str, Moments],
    params: KmeansParams,
    run: RunContext,
) -> dict[str, np.ndarray]:
    """By layer, (rows, columns); empty where all weights count alike."""
    found: dict[str, np.ndarray] = {}
    if params.importance == "activation":
        found = {
            name: moment.squares.reshape(len(moment.squares), -1) / moment.count for name, moment in moments.items()
        }
    elif params.importance == "fisher":
        from compressctl.techniques.share._fisher import fisher

        assert run.data is not None, "the plan gives calibration data to a technique that needs it"
        names = [layer.name for layer in layers]
        gradients = fisher(network.model().body, names, run.data.split("calibration"), model.signature, run.learning)
        found = {name: as_rows(values) for name, values in gradients.items()}
    return {name: values + _FLOOR * max(float(values.mean()), 1e-30) for name, values in found.items()}


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
    network: Network,
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
        "left": {**chosen.left, **network.skipped},
    }
