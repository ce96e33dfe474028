"""prune.unstructured: weights become zero by one of several criteria, patterns and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.untouched import Untouched
from compressctl.layers.layer import Layer
from compressctl.layers.network import Network, facts_of, nothing_to, open_network
from compressctl.numerics.sparsity_schedule import geometric
from compressctl.techniques.prune._masking import cut
from compressctl.techniques.prune._sparsity import Sparsities, sparsities
from compressctl.techniques.prune.params import UnstructuredParams

_READS = "linear and recurrent layers, convolutions and attention's projections"


def apply(model: Model, params: UnstructuredParams, run: RunContext) -> StageResult:
    """Prune, and train where the params say so. Raises NothingToCompressError when nothing can be pruned."""
    network = open_network(model, run.events, embeddings=params.embeddings, matrices=True)
    chosen = sparsities(network.layers(), params)
    if not chosen.pruned:
        hint = "`first_and_last: prune` takes the first and the last too"
        raise nothing_to("prune", model, network, chosen.dense, hint)
    facts = _SCHEDULES[params.schedule](network, chosen, params, run)
    ours = network.model()
    untouched = Untouched("prune.unstructured", _READS, chosen.pruned, {**chosen.dense, **network.skipped})
    dense = untouched.facts(ours, run.events)
    return StageResult(_held(ours, chosen), {**facts_of(network), **_zeros(network, chosen, params), **dense, **facts})


def _held(model: Model, chosen: Sparsities) -> Model:
    """The model with what was pruned among the weights whose zeros must stay; a graph is not trained."""
    if isinstance(model, OnnxModel):
        return model
    return replace(model, sparse=tuple(dict.fromkeys([*model.sparse, *chosen.pruned])))


def _one_shot(network: Network, chosen: Sparsities, params: UnstructuredParams, run: RunContext) -> dict[str, Any]:
    facts, model = _cut(network, chosen, 1, 1, params, run), network.model()
    if params.measures_norms and isinstance(model, TorchModel) and run.data is not None:
        from compressctl.training.batchnorm_recalibration import recalibrate_bn

        facts["measured_norms"] = recalibrate_bn(model.body, run.data.split("calibration"), model.signature)
    return facts if params.finetune is None else {**facts, "finetune": _train(_held(model, chosen), params, run)}


def _iterative(network: Network, chosen: Sparsities, params: UnstructuredParams, run: RunContext) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    rounds = []
    for number in range(1, params.iterations + 1):
        facts = _cut(network, chosen, number, params.iterations, params, run)
        trained = _train(_held(network.model(), chosen), params, _part(run, number))
        rounds.append({"share": _share(network.layers(), chosen), **trained})
    return {**facts, "cuts": rounds}


def _gradual(network: Network, chosen: Sparsities, params: UnstructuredParams, run: RunContext) -> dict[str, Any]:
    from compressctl.layers.torch_network import TorchNetwork
    from compressctl.techniques.prune._sparse_training import gradual

    assert isinstance(network, TorchNetwork), "graphs are not trained: the params refuse it"
    hook = gradual(network, chosen, params)
    trained = _train(network.model(), params, run, hook)
    cuts = {"number": len(hook.cuts), "first_step": hook.cuts[0], "last_step": hook.cuts[-1]}
    return {"cuts": cuts, "finetune": trained}


_SCHEDULES = {"one-shot": _one_shot, "iterative": _iterative, "gradual": _gradual}


def _cut(
    network: Network, chosen: Sparsities, number: int, cuts: int, params: UnstructuredParams, run: RunContext
) -> dict[str, Any]:
    split = run.data.split("calibration") if params.is_calibrated and run.data is not None else None
    unseen = cut(network, chosen, partial(geometric, number, cuts), params, split, run)
    return {"by_magnitude": unseen} if unseen else {}


def _train(model: Model, params: UnstructuredParams, run: RunContext, *hooks: Any) -> dict[str, Any]:
    from compressctl.training.supervision.finetune import finetune

    assert params.finetune is not None, "the check refuses schedules that train without it"
    assert isinstance(model, TorchModel), "the params refuse to train a graph"
    return dict(finetune(model, params.finetune, run, hooks).facts)


def _part(run: RunContext, number: int) -> RunContext:
    """Each training of a stage has a seed and a place to resume from of its own."""
    return replace(run.part(f"cut-{number}"), seed=run.seed + number)


def _zeros(network: Network, chosen: Sparsities, params: UnstructuredParams) -> dict[str, Any]:
    """What came out, counted in the weights themselves."""
    layers = network.layers()
    total = sum(layer.weight.size for layer in layers)
    zero = sum(layer.weight.size - int(np.count_nonzero(layer.weight)) for layer in layers)
    return {
        "zeros": {
            "share": zero / total,
            "zero": zero,
            "weights": total,
            "method": params.method,
            "pattern": params.pattern if isinstance(params.pattern, str) else list(params.pattern),
        },
        "layers": {layer.name: _share([layer], chosen) for layer in layers if layer.name in chosen.pruned},
        "dense": {**chosen.dense, **network.skipped},
    }


def _share(layers: Sequence[Layer], chosen: Sparsities) -> float:
    weights = [layer.weight for layer in layers if layer.name in chosen.pruned]
    return 1.0 - sum(int(np.count_nonzero(weight)) for weight in weights) / sum(weight.size for weight in weights)
