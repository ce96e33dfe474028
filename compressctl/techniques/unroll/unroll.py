"""unroll: convolutions with few outputs compute several positions at once, where the target's runtime is faster that way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from compressctl.core.errors import NothingToCompressError
from compressctl.core.machine import this_machine
from compressctl.core.model import OnnxModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.opset import opset_of
from compressctl.graph.shapes import shapes
from compressctl.graph.unroll import OLDEST_OPSET, Convolution, convolutions, unrolled
from compressctl.techniques.unroll.params import UnrollParams

Positions = Mapping[str, tuple[int, int]]

_MOST_ROWS = 8
_WORTH_TIMING = 0.01
"""Share of the work of all lanes that unrolling one kind of convolution has to save by count."""

_FASTER = 0.995
"""Share of the whole latency: less of a difference is noise."""


def apply(model: OnnxModel, params: UnrollParams, run: RunContext) -> StageResult:
    """Raises NothingToCompressError where no convolution has few outputs, or none is faster unrolled."""
    found = _candidates(model)
    if params.positions:
        chosen = {
            node: factors
            for pattern, factors in params.positions.items()
            for node in _matched(pattern, found)
            if factors != (1, 1)
        }
    else:
        chosen = _measured(model, found, params, run)
    if not chosen:
        raise NothingToCompressError(
            "nothing to unroll: no float convolution with few outputs is faster when it computes several positions at once",
            hint="leave the stage out; it serves plain convolutions whose outputs are fewer than a processor's vectors hold",
        )
    positions = {node: list(factors) for node, factors in chosen.items()}
    body = unrolled(model.body, chosen, found)
    return StageResult(
        replace(model, body=body), {"positions_at_once": positions}, {"use": "unroll", "positions": positions}
    )


def _candidates(model: OnnxModel) -> dict[str, Convolution]:
    """Those that compute in float."""
    if opset_of(model.body) < OLDEST_OPSET:
        return {}
    plan = model.quant
    found = convolutions(model.body.graph, shapes(model.body))
    quantized = set() if plan is None else set(plan.weights)
    floats = set() if plan is None else set(filter(plan.is_float, plan.float_nodes))
    return {name: each for name, each in found.items() if each.weight_name not in quantized or name in floats}


def _matched(pattern: str, found: Mapping[str, Convolution]) -> list[str]:
    names = list(found)
    return matching(
        pattern, names, lambda name: (name, found[name].weight_name), key="positions", what="plain float convolution"
    )


def _measured(
    model: OnnxModel, found: Mapping[str, Convolution], params: UnrollParams, run: RunContext
) -> dict[str, tuple[int, int]]:
    """Alike ones together, each kind in the way that made the whole network fastest."""
    clock = run.clock()
    lanes = params.lanes or _lanes()
    total = sum(each.work(lanes) for each in found.values())
    chosen: dict[str, tuple[int, int]] = {}
    kinds = _alike(found.values())
    for number, kind in enumerate(kinds):
        ways = [
            way
            for way in dict.fromkeys(_best(kind[0], most) for most in (lanes, 2 * lanes))
            if len(kind) * (kind[0].work(lanes) - kind[0].work(lanes, *way)) > _WORTH_TIMING * total
        ]
        if not ways:
            continue
        run.events.progress("timing convolutions that compute several positions at once", number, len(kinds))
        tried = [{each.node: way for each in kind} for way in ways]
        models = [replace(model, body=unrolled(model.body, way, found)) for way in tried]
        before, *after = clock([model, *models])
        fastest = min(range(len(tried)), key=after.__getitem__)
        if after[fastest] < _FASTER * before:
            chosen |= tried[fastest]
    return chosen


def _alike(found: Iterable[Convolution]) -> list[list[Convolution]]:
    kinds: dict[Convolution, list[Convolution]] = {}
    for each in found:
        kinds.setdefault(replace(each, node="", weight_name=""), []).append(each)
    return list(kinds.values())


def _best(convolution: Convolution, most: int) -> tuple[int, int]:
    """Rows and columns of positions that make `most` outputs at most, and the least work for lanes of that number."""
    out = convolution.weight[0]
    ways = [
        (rows, columns)
        for rows in range(1, min(_MOST_ROWS, convolution.made[0]) + 1)
        for columns in range(1, min(most, convolution.made[1]) + 1)
        if rows * columns * out <= most
    ]
    return min(ways, key=lambda way: convolution.work(most, *way), default=(1, 1))


def _lanes() -> int:
    """Floats of a vector, by which ONNX Runtime blocks outputs: 16 with AVX-512, else 8."""
    return 16 if "avx512f" in this_machine().cpu_flags else 8
