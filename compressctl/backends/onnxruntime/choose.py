"""Which form of a product with quantized weights alone, or of an LSTM, ONNX Runtime runs fastest here: measured, not assumed.

Its kernels differ by more than an order of magnitude with the bits, the block, the rows and the processor: 8-bit weights with float
activations can take 20 times as long as float weights, 4-bit ones with 8-bit activations half as long.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressctl.backends.dialects.dynamic import lstm_scales, without_dynamic
from compressctl.backends.dialects.weight_only import Form, forms, weight_only_products
from compressctl.backends.onnx_file import to_onnx
from compressctl.backends.onnxruntime.session import providers, serving_options
from compressctl.backends.onnxruntime.standing import Standing, standing_of, timed_part
from compressctl.backends.params import OnnxRuntimeParams
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.graph.codes import weight_values
from compressctl.graph.index import GraphIndex, copied, places
from compressctl.graph.session import open_graph
from compressctl.graph.shapes import shapes
from compressctl.graph.tensors import from_array, to_array
from compressctl.graph.weight_nodes import RECURRENT, find_weighted, tied_weights

_ROUNDED_ACTIVATIONS = 0.02
"""Share of the outputs' RMS. Activations rounded to 8 bits in blocks cost some 0.5 %; more means that a kernel is wrong."""

_ROUNDED_STATES = 0.1
"""As above, of an LSTM, whose states carry the rounding of each step on."""

_EXACT = 1e-4
_SECONDS = 0.3
"""For all forms of one shape, after they are loaded."""

_WORTH_IT = {Form.QDQ: 0.9, Form.AT_LOAD: 0.95}
"""What other forms' seconds must fall below this share of for another to be taken. MatMulNBits says what it computes and holds its codes
in memory; a DequantizeLinear's product follows the session's options, and what is unpacked at load takes float's memory."""


def choose_forms(
    model: OnnxModel, target: Target, followers: Mapping[str, str] | None = None, *, stays_small: bool = False
) -> tuple[dict[str, Form], tuple[str, ...]]:
    """Form by node, and what was measured, in words. Products alike are measured once. Empty without such layers.

    followers: products that take the form of another, which stores its weight alike, and are not measured. stays_small: leave out the form
    that takes float's memory once it is loaded wherever a kernel computes with the codes, as where what is served must fit.
    """
    options = OnnxRuntimeParams.model_validate_json(json.dumps(dict(target.options)))
    products = weight_only_products(model.body.graph, without_dynamic(model.quant, target))
    nodes = {node.name: (node, found) for place, found in places(model.body.graph) for node in place.node}
    recurrent = [
        name for name, (node, _) in nodes.items() if node.op_type in RECURRENT and _is_planned(node, model.quant)
    ]
    given = options.weight_form if isinstance(options.weight_form, dict) else {}
    if not products and not recurrent:
        return {}, tuple(_unmet(given, {}))
    assert model.quant is not None
    timed = _of_this_graph(target.input_shapes, model)
    sizes = shapes(model.body, inputs=timed)
    tied = _packed_with_a_table(model)
    chosen: dict[str, Form] = {}
    measured: dict[object, tuple[Form, str]] = {}
    notes: list[str] = []
    for name in recurrent:
        node, found = nodes[name]
        if name in given and _takes(node, found, model.quant, Form(given[name])):
            chosen[name] = Form(given[name])
            continue
        chosen[name], words = _of_recurrent(node, found, model.quant, sizes.get(node.input[0]), target)
        notes.append(f"{name}: {words}")
    followers = followers or {}
    for product in products:
        if product.node in followers:
            continue
        node, found = nodes[product.node]
        columns = found.initializers[product.weight].dims
        possible = forms(product, columns[-1] if product.transposed else columns[0], target)
        if product.weight in tied or (stays_small and any(form.is_packed for form in possible)):
            possible = [form for form in possible if form is not Form.AT_LOAD]
        if not possible:
            continue
        if given.get(product.node) in possible:
            chosen[product.node] = Form(given[product.node])
            continue
        if isinstance(options.weight_form, str) and options.weight_form != "measured":
            chosen[product.node] = _asked(options.weight_form, possible, integers=options.integer_activations)
            continue
        rows = _rows(sizes.get(node.input[0]), target, is_timed=timed is not None)
        standing = standing_of(node, found, model.quant.weights[product.weight])
        key = (tuple(possible), rows, standing.kind, product.weight in tied)
        if key not in measured:
            of_table = product.weight in tied
            measured[key] = _fastest(standing, possible, rows, target, options.integer_activations, of_table)
        chosen[product.node] = measured[key][0]
    chosen |= {node: chosen[other] for node, other in followers.items() if other in chosen}
    return chosen, (*notes, *(words for _, words in measured.values()), *_unmet(given, chosen))


def _unmet(given: Mapping[str, str], chosen: Mapping[str, Form]) -> Iterator[str]:
    """In words, the nodes that a recipe gives a form which they did not get."""
    left = [f"{name} ({form})" for name, form in given.items() if chosen.get(name) != form]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        yield (
            f"weight_form names {', '.join(left[:3])}{more}, which the file does not hold so: no such node has quantized weights alone, or it cannot be "
            "written in that form"
        )


def _is_planned(node: onnx.NodeProto, plan: QuantPlan | None) -> bool:
    return plan is not None and not plan.is_float(node.name) and any(name in plan.weights for name in node.input)


def _of_recurrent(
    node: onnx.NodeProto, found: GraphIndex, plan: QuantPlan, given: Sequence[int | None] | None, target: Target
) -> tuple[Form, str]:
    """given: the sequence's shape, steps first; what is unknown counts 1."""
    stored = f"{node.op_type} weights are stored small and unpacked when the file is loaded"
    if node.op_type != "LSTM":
        return Form.AT_LOAD, f"{stored}: ONNX Runtime has no integer kernel for {node.op_type}"
    if not _takes(node, found, plan, Form.DYNAMIC):
        return Form.AT_LOAD, stored
    dims = _dims(node, found)
    alone = _recurrent_alone(node, found, plan)
    sizes = [size or 1 for size in (given or (1, 1, 1))[:2]]
    x = np.random.default_rng(0).normal(0, 1, (*sizes, dims[node.input[1]][2])).astype(np.float32)
    plain, timed = _timed(alone, node.name, x, (Form.DYNAMIC, Form.AT_LOAD), target)
    best = min(timed, key=lambda form: timed[form].seconds / _WORTH_IT.get(form, 1.0))
    if timed[Form.DYNAMIC].error > _ROUNDED_STATES:
        best = Form.AT_LOAD
    speed = f"measured {plain / timed[best].seconds:.2f}x the speed of float weights at {sizes[0]} steps of {sizes[1]}"
    return best, f"LSTM written as DynamicQuantizeLSTM: {speed}" if best is Form.DYNAMIC else f"{stored}: {speed}"


def _takes(node: onnx.NodeProto, found: GraphIndex, plan: QuantPlan, form: Form) -> bool:
    """Whether a recurrent layer can be written in the form."""
    if form is not Form.DYNAMIC:
        return form is Form.AT_LOAD
    dims = _dims(node, found)
    is_planned = node.op_type == "LSTM" and node.name in plan.dynamic and len(dims) == 2
    return is_planned and lstm_scales(node, plan, dims) is not None


def _dims(node: onnx.NodeProto, found: GraphIndex) -> dict[str, tuple[int, ...]]:
    """Of a recurrent layer's weights that are constants, by name."""
    return {name: tuple(found.initializers[name].dims) for name in node.input[1:3] if name in found.initializers}


def _recurrent_alone(node: onnx.NodeProto, found: GraphIndex, plan: QuantPlan) -> OnnxModel:
    """The layer from states of zero over whole sequences, its weights with the values of their codes."""
    made = copied(node)
    kept = [name if name in found.initializers else "" for name in node.input]
    made.input[:] = ["x", *kept[1:4], "", "", "", *kept[7:]]
    made.output[:] = ["y"]
    constants = [found.initializers[name] for name in dict.fromkeys(filter(None, kept))]
    constants = [
        from_array(weight_values(to_array(tensor), plan.weights[tensor.name]), tensor.name)
        if tensor.name in plan.weights
        else tensor
        for tensor in constants
    ]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, [None] * 3)], [value("y", TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph([made], "layer", inputs, outputs, constants)
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    signature = Signature((TensorSpec("x", "float32", ("steps", "batch", "inputs"), 1),), ())
    weights = {name: plan.weights[name] for name in node.input[1:3]}
    return OnnxModel(body, signature, QuantPlan({}, weights, {}, frozenset((node.name,))))


def _packed_with_a_table(model: OnnxModel) -> set[str]:
    """Weights whose codes the file holds once for a lookup too, as MatMulNBits packs them."""
    tied = tied_weights(model.body.graph, find_weighted(model.body.graph))
    return {*tied, *tied.values()}


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


def _asked(form: str, possible: list[Form], *, integers: bool) -> Form:
    wanted = Form.NBITS_INT8 if form == "matmul_nbits" and integers else Form(form)
    return wanted if wanted in possible else possible[0]


@dataclass(frozen=True)
class Timed:
    """seconds: of one call, the least seen. error: of the outputs against the plan's numbers, as a share of their RMS."""

    seconds: float
    error: float


def time_forms(
    product: Standing, possible: Sequence[Form], rows: int, target: Target
) -> tuple[float, dict[Form, Timed]]:
    """The product in every form, and the seconds of float weights beside them."""
    x = np.random.default_rng(0).normal(0, 1, (rows, product.shape[0])).astype(np.float32)
    return _timed(product.alone(target), product.nodes[0].name, x, possible, target)


def _timed(
    model: OnnxModel, node: str, x: np.ndarray, possible: Sequence[Form], target: Target
) -> tuple[float, dict[Form, Timed]]:
    """model: of one input and one output. node: the one whose forms are tried."""
    inputs = {model.signature.inputs[0].name: x}
    files = [to_onnx(replace(model, quant=None), target)]
    files += [to_onnx(model, target, {node: form}) for form in possible]
    first, *calls = [_call(file, inputs, target) for file in files]
    wanted = first()
    size = max(float(np.mean(wanted**2)), 1e-30)
    errors = [float(np.sqrt(np.mean((call() - wanted) ** 2) / size)) for call in calls]
    plain, *others = _interleaved([first, *calls])
    return plain, {form: Timed(*found) for form, found in zip(possible, zip(others, errors, strict=True), strict=True)}


def _fastest(
    product: Standing, possible: Sequence[Form], rows: int, target: Target, rounds: bool, of_table: bool
) -> tuple[Form, str]:
    """rounds: whether activations may be rounded to 8 bits. of_table: an embedding reads its codes, too, so that they are not unpacked."""
    part = timed_part(product)
    plain, timed = time_forms(part, possible, rows, target)
    if not rounds and any(form is not Form.QDQ for form in timed):
        # A DequantizeLinear's product rounds them wherever a session does not say otherwise.
        timed = {form: found for form, found in timed.items() if form is not Form.QDQ}
    limit = _ROUNDED_ACTIVATIONS if rounds else _EXACT
    right = {form: found for form, found in timed.items() if found.error <= limit} or timed
    best = min(right, key=lambda form: right[form].seconds / _WORTH_IT.get(form, 1.0))
    kind = "" if timed[best].error <= _EXACT else ", its activations rounded to 8 bits"
    words = f"{product.words} are {_WRITTEN[best]}{kind}: "
    tie = ", with the codes of an embedding's table" if of_table else ""
    outputs = "" if part is product else f", on {part.shape[1]} of its outputs"
    return (
        best,
        f"{words}measured {plain / timed[best].seconds:.2f}x the speed of float weights at {rows} rows{outputs}{tie}",
    )


_WRITTEN = {
    Form.NBITS: "written as MatMulNBits",
    Form.NBITS_INT8: "written as MatMulNBits",
    Form.QDQ: "written as DequantizeLinear",
    Form.AT_LOAD: "stored small and unpacked when the file is loaded, where no kernel for them was faster",
}


def _call(model: onnx.ModelProto, x: Mapping[str, np.ndarray], target: Target) -> Callable[[], np.ndarray]:
    session = open_graph(model, serving_options(target), providers(target))
    return lambda: session.run(None, dict(x))[0]


def _interleaved(calls: Sequence[Callable[[], object]]) -> list[float]:
    """The least seconds of each call, in turns so that a busy moment hits all alike, and in changing order, so that none
    always finds the caches as the slowest left them."""
    for call in calls:
        call()
    least = [math.inf] * len(calls)
    order, random = list(range(len(calls))), Random(0)
    end = time.perf_counter() + _SECONDS
    turns = 0
    while turns < 2 * len(calls) or time.perf_counter() < end:
        random.shuffle(order)
        for position in order:
            started = time.perf_counter()
            calls[position]()
            least[position] = min(least[position], time.perf_counter() - started)
        turns += 1
    return least
