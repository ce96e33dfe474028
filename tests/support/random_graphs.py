"""Random small ONNX graphs as exporters and people make them, valid in ONNX and in ONNX Runtime.

Any opset from 9 on, floats of 32 or 16 bits, weights wherever a file may keep them, names that nobody expects, bodies (If, Loop,
Scan) with weights and captures, model-local functions. Values stay near one in size, and no condition depends on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OLDEST = 9
SAMPLES = 6
WORDS = 24
Shape = tuple[int, ...]
"""Without the batch, which is the first axis of every activation."""

SUFFIXES = (
    "_codes", "_scale", "_zero_point", "_DQ", "_DQ1", "_Q", "_raw", "_half", "_single", "_cast", "_at_load", "_quantized", "_copy",
    "_float", "_turned", "_packed", "_table", "_sums", "_rounded", "_divided", "_pooled", "_corrected_bias", "_kept_float",
    "_without_bias", "_before_relu", ".shifted_bias", ".weight", "_shape", "_DQ_node", "_steps", "_numbers", "_relu", "_bias",
)  # fmt: skip
"""What passes append to names to make their own."""


@dataclass(frozen=True)
class Drawn:
    """products: operator and place ("main" or "body") of every plain product of an activation with a constant weight."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    products: frozenset[tuple[str, str]]

    def treatable(self, use: str) -> bool:
        """Whether a technique has to find work."""
        if use.startswith("factorize."):
            return False
        if use == "quantize.static":
            return any(place == "main" for _, place in self.products)
        return any(use != "quantize.dynamic" or op != "Conv" for op, _ in self.products)

    def __repr__(self) -> str:
        return f"{onnx.printer.to_text(self.model)[:6000]}\n# {sorted(self.products)}"


@functools.cache
def newest_opset() -> int:
    """The newest that the installed ONNX Runtime serves."""
    version: int = onnx.defs.onnx_opset_version()
    while version > OLDEST:
        node = helper.make_node("Relu", ["x"], ["y"])
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in "xy"]
        graph = helper.make_graph([node], "g", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), _quiet())
        except Exception:
            version -= 1
        else:
            break
    return version


def _quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], level: str = "BASIC") -> dict[str, np.ndarray]:
    """The outputs in ONNX Runtime. level: of its optimizations; the first one computes what the graph says."""
    options = _quiet()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    return _Graph(draw).drawn()


@dataclass
class _Place:
    """A graph or a body while it is written. tensors: activations that can be read here, with their shapes."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[tuple[str, Shape]] = field(default_factory=list)


class _Graph:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.opset = draw(st.one_of(st.sampled_from([9, 11, 13, 17, 21]), st.integers(OLDEST, newest_opset())))
        self.dtype: Any = np.float16 if draw(st.integers(0, 5)) == 5 else np.float32
        self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.odd_names = draw(st.booleans())
        self.odd_weights = draw(st.booleans())
        self.names: list[str] = []
        self.main = _Place()
        self.place = self.main
        self.depth = 0
        self.inlined = False
        self.inputs: list[onnx.ValueInfoProto] = []
        self.listed: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.weights: list[tuple[str, Shape]] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.products: set[tuple[str, str]] = set()

    # What is drawn

    def chance(self, of: int = 2) -> bool:
        return self.draw(st.integers(1, of)) == of

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def name(self, hint: str) -> str:
        wanted = hint
        if self.odd_names and self.chance(3):
            wanted = self.pick(
                [
                    f"/model/{hint}.{len(self.names)}/out:0",
                    f"größe {len(self.names)} ß",
                    f"{len(self.names)}",
                    f".{hint}",
                    f"unpack.{len(self.names)}.0",
                ]
            )
            if self.names and self.chance():
                wanted = self.pick(self.names[-6:]) + self.pick(SUFFIXES)
        while wanted in self.names:
            wanted += f"{len(self.names)}"
        self.names.append(wanted)
        return wanted

    def found(self, op: str) -> None:
        self.products.add((op, "body" if self.depth else "main"))

    # How it is written

    def node(self, op: str, inputs: Sequence[str], shape: Shape | None = None, **attributes: Any) -> str:
        output = self.name(op.lower())
        # ONNX Runtime takes the name of a node once in each graph; bodies may repeat it.
        wanted = self.pick(["", output, f"{op}_{len(self.names)}", self.names[0]])
        name = "" if wanted in {node.name for node in self.place.nodes} else wanted
        self.place.nodes.append(helper.make_node(op, list(inputs), [output], name, **attributes))
        if shape is not None:
            self.place.tensors.append((output, shape))
        return output

    def constant(self, values: Any, dtype: Any = np.int64, hint: str = "k") -> str:
        array = np.asarray(values, dtype)
        name = self.name(hint)
        if self.odd_weights and self.chance():
            self.place.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        else:
            self.place.stored.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan_in: int | None = None, hint: str = "w") -> str:
        """A constant of floats: stored here or around, or read a second time."""
        known = [name for name, other in self.weights if other == shape]
        if known and self.chance(3):
            return str(self.pick(known))
        values = self.rng.standard_normal(shape) / np.sqrt(fan_in or shape[0])
        where = self.pick(
            ["plain", "constant", "identity", "cast", "reshape", "transpose", "listed", "output", "outside"]
        )
        if not self.odd_weights:
            where = "plain"
        array = values.astype(self.dtype)
        name = self.name(hint)
        place = self.main if where in ("listed", "output", "outside") else self.place
        if where == "constant":
            place.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        elif where in ("plain", "listed", "output", "outside"):
            place.stored.append(numpy_helper.from_array(array, name))
            info = helper.make_tensor_value_info(name, self.kind, list(shape))
            if where == "listed":
                self.listed.append(info)
            elif where == "output" and name not in {output.name for output in self.outputs}:
                self.outputs.append(info)
        else:
            stored = self.name("stored")
            other = {"cast": np.float16 if self.dtype == np.float32 else np.float32}.get(where, self.dtype)
            moved = array.T if where == "transpose" else array.reshape(-1) if where == "reshape" else array
            place.stored.append(numpy_helper.from_array(np.ascontiguousarray(moved).astype(other), stored))
            target = [self.constant(shape)] if where == "reshape" else []
            attributes: dict[str, Any] = {"to": self.kind} if where == "cast" else {}
            place.nodes.append(helper.make_node(where.title(), [stored, *target], [name], f"{name}_made", **attributes))
        if place is self.main or self.depth == 0:
            self.weights.append((name, shape))
        return name

    def float_constant(self, values: Any) -> str:
        return self.constant(values, self.dtype, "f")

    def axes(self, op: str, x: str, axes: list[int], shape: Shape | None, since: int, **attributes: Any) -> str:
        """An operator whose axes moved from an attribute to an input."""
        if self.opset < since:
            return self.node(op, [x], shape, axes=axes, **attributes)
        return self.node(op, [x, self.constant(axes)], shape, **attributes)

    def reshape(self, x: str, shape: Shape) -> str:
        return self.node("Reshape", [x, self.constant([-1, *shape])], shape)

    # Blocks

    def conv(self, x: str, shape: Shape) -> None:
        channels, spatial = shape[0], shape[1:]
        out, kernel = self.pick([4, 8, 12]), self.pick([1, 3])
        if self.chance(4):
            groups, out, each = channels, channels, 1
        else:
            groups, each = 1, channels
        dims = (out, each, *[kernel] * len(spatial))
        inputs = [x, self.weight(*dims, fan_in=each * kernel ** len(spatial))]
        if self.chance():
            inputs.append(self.weight(out, hint="b"))
        attributes: dict[str, Any] = {"group": groups}
        if self.chance():
            attributes["pads"] = [kernel // 2] * 2 * len(spatial)
        else:
            attributes["auto_pad"] = "SAME_UPPER"
        self.found("Conv")
        self.node("Conv", inputs, (out, *spatial), **attributes)

    def conv_transpose(self, x: str, shape: Shape) -> None:
        inputs = [x, self.weight(shape[0], 4, 2, 2, fan_in=shape[0])]
        self.node("ConvTranspose", inputs, (4, shape[1] * 2, shape[2] * 2), strides=[2, 2])

    def gemm(self, x: str, shape: Shape) -> None:
        out = self.pick([5, 8, 16])
        turned = self.chance()
        attributes: dict[str, Any] = {"transB": 1} if turned else {}
        is_plain = True
        if self.chance(4):
            attributes["alpha"] = 0.5
            is_plain = False
        dims = (out, shape[0]) if turned else (shape[0], out)
        inputs = [x, self.weight(*dims, fan_in=shape[0])]
        if self.opset < 11 or self.chance():
            inputs.append(self.weight(out, hint="b") if self.chance(3) else self.float_constant(0.25))
            if self.chance(4):
                attributes["beta"] = 2.0
                is_plain = False
        if self.chance(6):
            inputs[0] = self.node("Transpose", [x], perm=[1, 0])
            attributes["transA"] = 1
            is_plain = False
        if is_plain:
            self.found("Gemm")
        self.node("Gemm", inputs, (out,), **attributes)

    def matmul(self, x: str, shape: Shape) -> None:
        out = self.pick([5, 8, 16])
        if len(shape) > 1 and self.chance(5):
            self.node("MatMul", [x, self.weight(1, shape[-1], out, fan_in=shape[-1])], (*shape[:-1], out))
            return
        product = self.node("MatMul", [x, self.weight(shape[-1], out)], (*shape[:-1], out))
        self.found("MatMul")
        if self.chance():
            self.node("Add", [product, self.weight(out, hint="b")], (*shape[:-1], out))

    def attend(self, x: str, shape: Shape) -> None:
        turned = self.node("Transpose", [x], perm=[0, 2, 1])
        scores = self.node("MatMul", [x, turned])
        scaled = self.node("Mul", [scores, self.float_constant(0.2)])
        weights = self.node("Softmax", [scaled], axis=2)
        self.node("MatMul", [weights, x], shape)

    def activation(self, x: str, shape: Shape) -> None:
        op = self.pick(["Relu", "Clip", "Sigmoid", "LeakyRelu", "Tanh", "gate", "hard"])
        if op == "Clip":
            if self.opset < 11:
                self.node("Clip", [x], shape, min=-1.0, max=3.0)
            else:
                self.node("Clip", [x, self.float_constant(-1.0), self.float_constant(3.0)], shape)
        elif op == "gate":
            self.node("Mul", [x, self.node("Sigmoid", [x], shape)], shape)
        elif op == "hard":
            gate = self.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)
            self.node("Mul", [gate, x], shape)
        else:
            self.node(op, [x], shape)

    def normalize(self, x: str, shape: Shape) -> None:
        size = shape[-1]
        if self.opset >= 17 and self.chance():
            self.node(
                "LayerNormalization", [x, self.weight(size, fan_in=1), self.weight(size, hint="b")], shape, axis=-1
            )
            return
        last = len(shape)
        mean = self.axes("ReduceMean", x, [last], None, 18, keepdims=1)
        centred = self.node("Sub", [x, mean])
        squared = self.node("Mul", [centred, centred])
        variance = self.axes("ReduceMean", squared, [last], None, 18, keepdims=1)
        root = self.node("Sqrt", [self.node("Add", [variance, self.float_constant(0.1)])])
        normed = self.node("Div", [centred, root])
        self.node("Mul", [normed, self.weight(size, fan_in=1)], shape)

    def combine(self, x: str, shape: Shape) -> None:
        op = self.pick(["Add", "Mul", "Concat", "Sub"])
        if op == "Concat":
            others = [
                (name, other)
                for name, other in self.place.tensors
                if other[1:] == shape[1:] and len(other) == len(shape)
            ]
            name, other = self.pick(others)
            self.node("Concat", [x, name], (shape[0] + other[0], *shape[1:]), axis=1)
            return
        others = [(name, other) for name, other in self.place.tensors if other == shape]
        other = self.pick(others)[0]
        if op == "Mul" and self.chance():
            other = self.float_constant(np.full((1,) * (len(shape) + 1), 0.7))
        elif op == "Mul":
            other = self.node("Tanh", [other])
        self.node(op, [x, other], shape)

    def pool(self, x: str, shape: Shape) -> None:
        op = self.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "mean"])
        if op in ("MaxPool", "AveragePool") and min(shape[1:]) >= 2:
            self.node(op, [x], (shape[0], shape[1] // 2, shape[2] // 2), kernel_shape=[2, 2], strides=[2, 2])
        elif op == "mean":
            self.axes("ReduceMean", x, [2, 3], (shape[0],), 18, keepdims=0)
        else:
            self.node("GlobalAveragePool", [x], (shape[0], 1, 1))

    def batchnorm(self, x: str, shape: Shape) -> None:
        size = shape[0]
        parts = [
            self.float_constant(np.ones(size)),
            self.float_constant(np.zeros(size)),
            self.float_constant(np.zeros(size)),
        ]
        self.node("BatchNormalization", [x, *parts, self.float_constant(np.full(size, 0.8))], shape)

    def resize(self, x: str, shape: Shape) -> None:
        out = (shape[0], shape[1] * 2, shape[2] * 2)
        scales = self.constant([1, 1, 2, 2], np.float32, "scales")
        if self.opset == 9:
            self.node("Upsample", [x, scales], out, mode="nearest")
        elif self.opset == 10:
            self.node("Resize", [x, scales], out, mode="nearest")
        else:
            roi = "" if self.opset >= 13 else self.constant(np.zeros(0), np.float32, "roi")
            self.node(
                "Resize",
                [x, roi, scales],
                out,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )

    def pad(self, x: str, shape: Shape) -> None:
        out, pads = (shape[0], shape[1] + 1, shape[2] + 2), [0, 0, 0, 1, 0, 0, 1, 1]
        if self.opset < 11:
            self.node("Pad", [x], out, pads=pads)
        else:
            self.node("Pad", [x, self.constant(pads)], out)

    def flatten(self, x: str, shape: Shape) -> None:
        size = int(np.prod(shape))
        if self.chance():
            self.node("Flatten", [x], (size,), axis=1)
        else:
            self.reshape(x, (size,))

    def to_sequence(self, x: str, shape: Shape) -> None:
        if len(shape) == 3:
            rows = self.reshape(x, (shape[0], shape[1] * shape[2]))
            self.node("Transpose", [rows], (shape[1] * shape[2], shape[0]), perm=[0, 2, 1])
        elif shape[0] % 4 == 0:
            self.reshape(x, (4, shape[0] // 4))
        else:
            self.axes("Unsqueeze", x, [1], (1, shape[0]), 13)

    def pooled_sequence(self, x: str, shape: Shape) -> None:
        self.axes("ReduceMean", x, [1], (shape[1],), 18, keepdims=0)

    def lookup(self) -> None:
        name, length = self.name("ids"), 5
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", length]))
        self.feeds[name] = self.rng.integers(0, WORDS, (SAMPLES, length))
        width = self.pick([8, 16, 32])
        self.node("Gather", [self.weight(WORDS, width, fan_in=1), name], (length, width))

    def call(self, x: str, shape: Shape) -> None:
        """A model-local function: a product and an activation."""
        if not self.functions:
            inner = [
                helper.make_node("MatMul", ["a", "b"], ["w_codes"], "n"),
                helper.make_node("Relu", ["w_codes"], ["c"]),
            ]
            opsets = [helper.make_opsetid("", self.opset)]
            self.functions.append(helper.make_function("own", "Block", ["a", "b"], ["c"], inner, opsets))
        out = self.pick([8, 16])
        self.found("MatMul")
        self.node("Block", [x, self.weight(shape[-1], out)], (*shape[:-1], out), domain="own")

    def recurrent(self, x: str, shape: Shape) -> None:
        """(N, T, F), time first inside."""
        length, width = shape
        turned = self.node("Transpose", [x], perm=[1, 0, 2])
        hidden = 4
        inputs = [
            turned,
            self.weight(1, 4 * hidden, width, fan_in=width),
            self.weight(1, 4 * hidden, hidden, fan_in=hidden),
        ]
        out = self.name("lstm")
        self.place.nodes.append(helper.make_node("LSTM", inputs, [out], "", hidden_size=hidden))
        dropped = self.axes("Squeeze", out, [1], None, 13)
        self.node("Transpose", [dropped], (length, hidden), perm=[1, 0, 2])

    # Bodies

    def body(
        self, inputs: Sequence[onnx.ValueInfoProto], steps: Callable[[], list[tuple[str, Shape | None, int]]]
    ) -> Any:
        """A graph of its own that reads what stands around it. steps: writes it and returns its outputs."""
        outer, self.place = self.place, _Place(tensors=list(self.place.tensors))
        self.depth += 1
        outputs = steps()
        infos = [
            helper.make_tensor_value_info(
                name, kind, None if shape is None else ["N", *shape] if kind == self.kind else shape
            )
            for name, shape, kind in outputs
        ]
        made = helper.make_graph(self.place.nodes, self.name("body"), inputs, infos, self.place.stored)
        self.place = outer
        self.depth -= 1
        return made

    def some_steps(self, shape: Shape, x: str) -> str:
        """Products that keep the shape, (.., F) to (.., F)."""
        for _ in range(self.draw(st.integers(1, 2))):
            x = self.node("MatMul", [x, self.weight(shape[-1], shape[-1])])
            self.found("MatMul")
            if self.chance():
                x = self.node("Tanh", [x])
        if self.chance(4) and self.depth < 3 and not self.inlined:
            x = self.branches(x, shape)
        return x

    def condition(self) -> str:
        known = next((name for name, value in self.feeds.items() if value.dtype == bool), None)
        if known is not None:
            return known
        name = self.name("flag")
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
        self.feeds[name] = np.array(self.chance())
        return name

    def branches(self, x: str, shape: Shape) -> str:
        # ONNX Runtime 1.32 loses tensors where it inlines an If with another If in it.
        self.inlined = not self.depth and self.chance()
        taken = self.chance()
        condition = self.constant(taken, bool, "flag") if self.inlined else self.condition()

        def branch() -> list[tuple[str, Shape | None, int]]:
            given = self.some_steps(shape, x) if self.chance(3) is False else self.node("Identity", [x])
            return [(given, shape, self.kind)]

        parts = {}
        for name in ("then_branch", "else_branch"):
            before = set(self.products)
            parts[name] = self.body([], branch)
            if self.inlined and taken != (name == "then_branch"):
                self.products = before
        self.inlined = False
        return self.node("If", [condition], None, **parts)

    def branch(self, x: str, shape: Shape) -> None:
        self.place.tensors.append((self.branches(x, shape), shape))

    def loop(self, x: str, shape: Shape) -> None:
        step, going, state = self.name("i"), self.name("going"), self.name("state")
        inputs = [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(state, self.kind, ["N", *shape]),
        ]

        def steps() -> list[tuple[str, Shape | None, int]]:
            moved = self.node("Tanh", [self.some_steps(shape, state)])
            more = self.node("Identity", [going])
            return [(more, (), TensorProto.BOOL), (self.node("Add", [moved, x]), shape, self.kind)]

        made = self.body(inputs, steps)
        self.node("Loop", [self.constant(2), self.constant(True, bool), x], shape, body=made)

    def scan(self, x: str, shape: Shape) -> None:
        """Over the second axis of (N, T, F): a state and what each step gives."""
        width = shape[1]
        state, entry = self.name("state"), self.name("entry")
        inputs = [helper.make_tensor_value_info(name, self.kind, ["N", width]) for name in (state, entry)]

        def steps() -> list[tuple[str, Shape | None, int]]:
            moved = self.node("Tanh", [self.node("Add", [self.some_steps((width,), entry), state])])
            return [(moved, (width,), self.kind), (self.node("Identity", [moved]), (width,), self.kind)]

        made = self.body(inputs, steps)
        first = self.axes("ReduceMean", x, [1], None, 18, keepdims=0)
        outputs = [self.name("last"), self.name("every")]
        attributes = {"num_scan_inputs": 1, "scan_input_axes": [1], "scan_output_axes": [1]}
        self.place.nodes.append(helper.make_node("Scan", [first, x], outputs, "", body=made, **attributes))
        self.place.tensors += [(outputs[0], (width,)), (outputs[1], shape)]

    # The whole

    def start(self) -> None:
        kinds = self.draw(st.lists(st.sampled_from(["image", "vector", "ids", "sequence"]), min_size=1, max_size=2))
        for kind in kinds:
            if kind == "ids":
                self.lookup()
                continue
            shape = {
                "image": (self.pick([3, 4]), 4, 4),
                "vector": (self.pick([8, 12]),),
                "sequence": (4, self.pick([8, 12])),
            }[kind]
            name = self.name("x")
            self.inputs.append(helper.make_tensor_value_info(name, self.kind, ["N", *shape]))
            self.feeds[name] = self.rng.standard_normal((SAMPLES, *shape)).astype(self.dtype)
            self.place.tensors.append((name, shape))

    def step(self) -> None:
        x, shape = self.pick(self.place.tensors[-4:])
        blocks: dict[int, list[Callable[[str, Shape], None]]] = {
            3: [self.conv, self.conv, self.activation, self.combine, self.pool, self.batchnorm, self.resize, self.pad, self.flatten,
                self.to_sequence, self.conv_transpose],
            2: [self.matmul, self.matmul, self.attend, self.activation, self.normalize, self.combine, self.pooled_sequence,
                self.flatten, self.recurrent, self.scan, self.branch, self.loop, self.call],
            1: [self.gemm, self.gemm, self.matmul, self.activation, self.normalize, self.combine, self.to_sequence, self.branch,
                self.loop, self.call],
        }  # fmt: skip
        self.pick(blocks[len(shape)])(x, shape)

    def drawn(self) -> Drawn:
        self.start()
        for _ in range(self.draw(st.integers(1, 7))):
            self.step()
        given = {value.name for value in self.inputs}
        made = [(name, shape) for name, shape in self.main.tensors if name not in given]
        if not made:
            made = [(self.node("Tanh", [self.main.tensors[0][0]]), self.main.tensors[0][1])]
        chosen = dict([made[-1], *([self.pick(made)] if self.chance() else [])])
        outputs = [helper.make_tensor_value_info(name, self.kind, ["N", *shape]) for name, shape in chosen.items()]
        graph = helper.make_graph(
            self.main.nodes, "random", [*self.inputs, *self.listed], [*outputs, *self.outputs], self.main.stored
        )
        opsets = [helper.make_opsetid("", self.opset), *([helper.make_opsetid("own", 1)] if self.functions else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=self.functions)
        return Drawn(model, self.feeds, frozenset(self.products))
