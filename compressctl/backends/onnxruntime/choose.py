"""Which form of a product with quantized weights alone ONNX Runtime runs fastest here: measured, not assumed.

Its kernels differ by more than an order of magnitude with the bits, the block, the rows and the processor: 8-bit weights with float
activations can take 20 times as long as float weights, 4-bit ones with 8-bit activations half as long.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.backends.dialects.dynamic import without_dynamic
from compressctl.backends.dialects.weight_only import Form, Product, forms, weight_only_products, write_weight_only
from compressctl.backends.onnxruntime.session import providers, serving_options
from compressctl.backends.params import OnnxRuntimeParams
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.graph.index import all_nodes, index
from compressctl.graph.session import open_graph
from compressctl.graph.shapes import shapes
from compressctl.graph.tensors import from_array

_ROUNDED_ACTIVATIONS = 0.02
"""Share of the outputs' RMS. Activations rounded to 8 bits in blocks cost some 0.5 %; more means that a kernel is wrong."""

_EXACT = 1e-4
_SECONDS = 0.3
"""For all forms of one shape, after they are loaded."""

_WORTH_IT = 0.9
"""MatMulNBits says what it computes; a DequantizeLinear's product follows the session's options, so it must be faster."""


def choose_forms(model: OnnxModel, target: Target) -> tuple[dict[str, Form], tuple[str, ...]]:
    """Form by node, and what was measured, in words. Products of one shape are measured once. Empty without such products."""
    options = OnnxRuntimeParams.model_validate_json(json.dumps(dict(target.options)))
    products = weight_only_products(model.body.graph, without_dynamic(model.quant, target))
    timed = _of_this_graph(target.input_shapes, model)
    sizes = shapes(model.body, inputs=timed) if products else {}
    found, readers = index(model.body.graph), {node.name: node for node in all_nodes(model.body.graph)}
    chosen: dict[str, Form] = {}
    measured: dict[tuple[object, ...], tuple[Form, str]] = {}
    for product in products:
        values = found.array(product.weight)
        assert values is not None
        values = values.T if product.transposed else values
        possible = forms(product, values.shape[0], target)
        rows = _rows(sizes.get(readers[product.node].input[0]), target, is_timed=timed is not None)
        if not possible:
            continue
        if options.weight_form != "measured":
            chosen[product.node] = _asked(options, possible)
            continue
        key = (
            product.is_captured,
            values.shape,
            product.quant.dtype,
            product.quant.block,
            bool(np.any(product.quant.zero_point)),
            rows,
        )
        if key not in measured:
            measured[key] = _fastest(product, values, rows, target, options.integer_activations)
        chosen[product.node] = measured[key][0]
    return chosen, tuple(words for _, words in measured.values())


def _of_this_graph(timed: Mapping[str, tuple[int, ...]], model: OnnxModel) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes of the call that is timed, where they are this graph's: a layer alone has inputs of its own."""
    return timed if timed and set(timed) == {spec.name for spec in model.signature.inputs} else None


def _rows(shape: tuple[int | None, ...] | None, target: Target, *, is_timed: bool) -> int:
    """How many rows the product's input has in the call that is timed, or at the target's batch where there is none.

    An axis of unknown size counts as 1.
    """
    if not shape:
        return target.batch_size
    if is_timed:
        return math.prod(size or 1 for size in shape[:-1])
    return target.batch_size * math.prod(size or 1 for size in shape[1:-1])


def _asked(options: OnnxRuntimeParams, possible: list[Form]) -> Form:
    wanted = (
        Form(True, 4 if options.integer_activations else 0) if options.weight_form == "matmul_nbits" else Form(False)
    )
    return wanted if wanted in possible else possible[0]


@dataclass(frozen=True)
class Timed:
    """seconds: of one call, the least seen. error: of the outputs against the plan's numbers, as a share of their RMS."""

    seconds: float
    error: float


def time_forms(product: Product, values: np.ndarray, rows: int, target: Target) -> tuple[float, dict[Form, Timed]]:
    """The product with a (K, N) weight in every form that can hold it, and the seconds of float weights beside them."""
    x = np.random.default_rng(0).normal(0, 1, (rows, values.shape[0])).astype(np.float32)
    wanted = x @ weight_values(values, product.quant)
    size = max(float(np.mean(wanted**2)), 1e-30)
    plain = _call(_alone(values, None, None, target), x, target)
    possible = forms(product, values.shape[0], target)
    calls = [_call(_alone(values, product, form, target), x, target) for form in possible]
    errors = [float(np.sqrt(np.mean((call() - wanted) ** 2) / size)) for call in calls]
    first, *others = _interleaved([plain, *calls])
    return first, {form: Timed(*found) for form, found in zip(possible, zip(others, errors, strict=True), strict=True)}


def _fastest(product: Product, values: np.ndarray, rows: int, target: Target, rounds: bool) -> tuple[Form, str]:
    """values: (K, N). rounds: whether activations may be rounded to 8 bits."""
    plain, timed = time_forms(product, values, rows, target)
    if not rounds and any(form.packed for form in timed):
        # A DequantizeLinear's product rounds them wherever a session does not say otherwise.
        timed = {form: found for form, found in timed.items() if form.packed}
    limit = _ROUNDED_ACTIVATIONS if rounds else _EXACT
    right = {form: found for form, found in timed.items() if found.error <= limit} or timed
    best = min(right, key=lambda form: right[form].seconds * (1.0 if form.packed else 1 / _WORTH_IT))
    name = "MatMulNBits" if best.packed else "DequantizeLinear"
    kind = "" if timed[best].error <= _EXACT else ", its activations rounded to 8 bits"
    words = f"{values.shape[0]} x {values.shape[1]} {product.quant.dtype} weights are written as {name}{kind}: "
    return best, f"{words}measured {plain / timed[best].seconds:.2f}x the speed of float weights at {rows} rows"


def _alone(values: np.ndarray, product: Product | None, form: Form | None, target: Target) -> onnx.ModelProto:
    """The product as a graph of its own, (rows, K) to (rows, N)."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", values.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", values.shape[1]])],
        [from_array(np.ascontiguousarray(values), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if product is not None and form is not None:
        alone = replace(product, node="product", weight="w", transposed=False)
        write_weight_only(model, [alone], {"product": form}, target)
    return model


def _call(model: onnx.ModelProto, x: np.ndarray, target: Target) -> Callable[[], np.ndarray]:
    session = open_graph(model, serving_options(target), providers(target))
    return lambda: session.run(None, {"x": x})[0]


def _interleaved(calls: Sequence[Callable[[], object]]) -> list[float]:
    """The least seconds of each call, in turns so that a busy moment hits all alike."""
    for call in calls:
        call()
    least = [math.inf] * len(calls)
    end = time.perf_counter() + _SECONDS
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        for position, call in enumerate(calls):
            started = time.perf_counter()
            call()
            least[position] = min(least[position], time.perf_counter() - started)
        turns += 1
    return least
