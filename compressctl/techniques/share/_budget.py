"""Clusters for each layer under a size: what each number of clusters costs and saves is measured, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.errors import StageError
from compressctl.core.feeds import feeds
from compressctl.core.model import Model, OnnxModel
from compressctl.core.technique import RunContext
from compressctl.graph.execute import ActivationRecorder
from compressctl.techniques.prune._sparse_layers import Layer, Weights
from compressctl.techniques.share._allocate import Option, allocate
from compressctl.techniques.share._layers import Chosen, as_rows, from_rows
from compressctl.techniques.share._shared import Shared, Treatment, share
from compressctl.techniques.share.params import KmeansParams

_SAMPLES = 64


def within_budget(
    model: Model,
    weights: Weights,
    layers: Sequence[Layer],
    chosen: Chosen,
    heavy: Mapping[str, np.ndarray],
    params: KmeansParams,
    run: RunContext,
) -> tuple[Chosen, dict[str, Any]]:
    """The layers' treatments with clusters that fit params.budget, and facts. Clusters of overrides are choices like others."""
    assert params.budget is not None
    outputs = _outputs(model, weights, run) if params.budget.sensitivity == "outputs" else None
    before = outputs() if outputs is not None else np.zeros(1)
    options: dict[str, list[Option]] = {}
    for number, layer in enumerate(layers):
        treatment = chosen.shared[layer.name]
        options[layer.name] = []
        for clusters in sorted(set(params.budget.choices)):
            rng = np.random.default_rng([run.seed, clusters])
            rows, weight = as_rows(layer.weight), heavy.get(layer.name)
            found = share(rows, Treatment(clusters, treatment.granularity), params, weight, rng)
            if outputs is None:
                error = _error(rows, found, weight)
            else:
                weights.write(layer.name, from_rows(found.values(), layer.weight.shape))
                error = float(((outputs() - before) ** 2).mean())
            options[layer.name].append(Option(clusters, _stored_bits(found), error))
        weights.write(layer.name, layer.weight)
        run.events.progress("measuring", number + 1, len(layers))
    count = sum(layer.weight.size for layer in layers)
    picked = allocate(options, params.budget.bits * count)
    if picked is None:
        least = sum(min(option.bits for option in some) for some in options.values()) / count
        raise StageError(
            f"budget.bits: {params.budget.bits:g} bits per weight cannot be met: {min(params.budget.choices)} clusters "
            f"take {least:.2f} already",
            hint="allow more bits, add a smaller choice, or use granularity: tensor, which has the smallest codebooks",
        )
    spent = sum(option.bits for option in picked.values()) / count
    shared = {
        name: Treatment(picked[name].clusters, treatment.granularity) for name, treatment in chosen.shared.items()
    }
    facts = {"bits": round(spent, 3), "allowed": params.budget.bits, "sensitivity": params.budget.sensitivity}
    return Chosen(shared, chosen.left), facts


def _error(rows: np.ndarray, found: Shared, weight: np.ndarray | None) -> float:
    return float(((1.0 if weight is None else weight) * (rows - found.values()) ** 2).sum())


def _stored_bits(found: Shared) -> float:
    """Of indices of whole bits, codebooks and scales."""
    scales = 0 if found.scale is None else 32 * found.scale.size
    return found.index_bits * found.codes.size + 32 * found.codebook.size + scales


def _outputs(model: Model, weights: Weights, run: RunContext) -> Callable[[], np.ndarray]:
    """Gives the first output for some calibration samples with the weights of the moment, scaled to deviation 1."""
    assert run.data is not None, "the plan gives calibration data to a technique that needs it"
    found = next(feeds(run.data.split("calibration"), model.signature, _SAMPLES), None)
    if found is None:
        raise StageError("budget: the calibration split is empty", hint="use sensitivity: error, or give it samples")
    inputs = found.inputs
    name = model.signature.outputs[0].name

    def in_onnx() -> np.ndarray:
        return np.array(ActivationRecorder(weights.body(), [name], threads=1).run(inputs)[name], np.float64)

    def in_torch() -> np.ndarray:
        import torch

        from compressctl.graph.torch_outputs import named_outputs

        with torch.no_grad():
            given = (torch.from_numpy(np.asarray(inputs[spec.name])) for spec in model.signature.inputs)
            return np.asarray(named_outputs(weights.body().eval()(*given))[name].double().numpy())

    run_once = in_onnx if isinstance(model, OnnxModel) else in_torch
    spread = max(float(run_once().std()), 1e-30)
    return lambda: run_once() / spread
