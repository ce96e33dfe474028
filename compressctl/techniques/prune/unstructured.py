"""prune.unstructured: weights become zero by one of several criteria, patterns and schedules."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import Model, OnnxModel, TorchModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.untouched import Untouched
from compressctl.graph.where_weights import layers_hint
from compressctl.numerics.sparsity_schedule import geometric
from compressctl.techniques.prune._masking import cut
from compressctl.techniques.prune._sparse_layers import Layer, Treated, Weights, treat, with_weights
from compressctl.techniques.prune.params import UnstructuredParams

if TYPE_CHECKING:
    from compressctl.graph.carry import Carried

_READS = "linear layers, convolutions and attention's projections"


def apply(model: Model, params: UnstructuredParams, run: RunContext) -> StageResult:
    """Prune, and train where the params say so. Raises NothingToCompressError when nothing can be pruned."""
    weights, carried = _weights(model, params, run)
    treated = treat(weights.layers(), params)
    if not treated.pruned:
        left = [f"{name}: {reason}" for name, reason in list({**treated.dense, **weights.skipped}.items())[:3]]
        reasons = "; ".join([*left, *(carried.said if carried is not None else ())])
        raise NothingToCompressError(
            f"nothing to prune: no linear layer or convolution is left ({reasons})"
            if reasons
            else "nothing to prune: no linear layer or convolution with a weight that this stage can change",
            hint=f"{layers_hint(model)}; `first_and_last: prune` takes the first and the last too",
        )
    ours = with_weights(model, weights, None if carried is None else carried.plan)
    before = {} if carried is None else carried.facts
    facts = _SCHEDULES[params.schedule](ours, weights, treated, params, run)
    untouched = Untouched("prune.unstructured", _READS, treated.pruned, {**treated.dense, **weights.skipped})
    dense = untouched.facts(ours, run.events)
    return StageResult(_held(ours, treated), {**before, **_zeros(weights, treated, params), **dense, **facts})


def _held(model: Model, treated: Treated) -> Model:
    """The model with what was pruned among the weights whose zeros must stay; a graph is not trained."""
    if isinstance(model, OnnxModel):
        return model
    return replace(model, sparse=tuple(dict.fromkeys([*model.sparse, *treated.pruned])))


def _weights(model: Model, params: UnstructuredParams, run: RunContext) -> tuple[Weights, Carried | None]:
    """The weights of a copy of the model, and of a graph what was quantized before."""
    if isinstance(model, OnnxModel):
        from compressctl.techniques.prune._sparse_onnx import OnnxWeights, prepared

        carried = prepared(model, run.events)
        weights = OnnxWeights(
            carried.model,
            model.signature,
            embeddings=params.embeddings,
            seed=run.seed,
            before=carried.weights,
        )
        return weights, carried
    from compressctl.techniques.prune._sparse_torch import TorchWeights

    body = copy.deepcopy(model.body)
    return TorchWeights(body, model.signature, embeddings=params.embeddings, seed=run.seed), None


def _one_shot(
    model: Model, weights: Weights, treated: Treated, params: UnstructuredParams, run: RunContext
) -> dict[str, Any]:
    facts = _cut(weights, treated, 1, 1, params, run)
    if params.measures_norms and isinstance(model, TorchModel) and run.data is not None:
        from compressctl.training.batchnorm_recalibration import recalibrate_bn

        facts["measured_norms"] = recalibrate_bn(model.body, run.data.split("calibration"), model.signature)
    return facts if params.finetune is None else {**facts, "finetune": _train(_held(model, treated), params, run)}


def _iterative(
    model: Model, weights: Weights, treated: Treated, params: UnstructuredParams, run: RunContext
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    rounds = []
    for number in range(1, params.iterations + 1):
        facts = _cut(weights, treated, number, params.iterations, params, run)
        trained = _train(_held(model, treated), params, _part(run, number))
        rounds.append({"share": _share(weights.layers(), treated), **trained})
    return {**facts, "cuts": rounds}


def _gradual(
    model: Model, weights: Weights, treated: Treated, params: UnstructuredParams, run: RunContext
) -> dict[str, Any]:
    from compressctl.techniques.prune._sparse_training import gradual

    hook = gradual(weights, treated, params)
    trained = _train(model, params, run, hook)
    cuts = {"number": len(hook.cuts), "first_step": hook.cuts[0], "last_step": hook.cuts[-1]}
    return {"cuts": cuts, "finetune": trained}


_SCHEDULES = {"one-shot": _one_shot, "iterative": _iterative, "gradual": _gradual}


def _cut(
    weights: Weights, treated: Treated, number: int, cuts: int, params: UnstructuredParams, run: RunContext
) -> dict[str, Any]:
    split = run.data.split("calibration") if params.is_calibrated and run.data is not None else None
    share = partial(geometric, number, cuts)
    unseen = cut(weights, treated, share, params, split, run.events)
    return {"by_magnitude": unseen} if unseen else {}


def _train(model: Model, params: UnstructuredParams, run: RunContext, *hooks: Any) -> dict[str, Any]:
    from compressctl.training.loop import train
    from compressctl.training.supervision.objective import objective_of

    assert params.finetune is not None, "the check refuses schedules that train without it"
    assert isinstance(model, TorchModel), "the check refuses to train a graph"
    objective, taught = objective_of(model, params.finetune, run)
    return dict(train(model, objective, params.finetune, run, [*hooks, *taught]).facts)


def _part(run: RunContext, number: int) -> RunContext:
    """Each training of a stage has a seed and a place to resume from of its own."""
    return replace(run.part(f"cut-{number}"), seed=run.seed + number)


def _zeros(weights: Weights, treated: Treated, params: UnstructuredParams) -> dict[str, Any]:
    """What came out, counted in the weights themselves."""
    layers = weights.layers()
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
        "layers": {layer.name: _share([layer], treated) for layer in layers if layer.name in treated.pruned},
        "dense": {**treated.dense, **weights.skipped},
    }


def _share(layers: list[Layer], treated: Treated) -> float:
    chosen = [layer.weight for layer in layers if layer.name in treated.pruned]
    return 1.0 - sum(int(np.count_nonzero(weight)) for weight in chosen) / sum(weight.size for weight in chosen)
