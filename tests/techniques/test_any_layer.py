"""Every technique on every kind of layer: it works, and the file computes what the changed weights say, or the reason is said in words."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.exact import exact_output
from torch import Tensor, nn

from compressctl.backends.onnx_file import to_onnx
from compressctl.core.data import Batch
from compressctl.core.errors import NothingToCompressError
from compressctl.core.events import Events
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.layers.channels.dependency_groups import find_coupling
from compressctl.layers.channels.surgery import cut, mask, removal
from compressctl.layers.channels.verify_group import proven
from compressctl.sources.structure import describe, rebuild
from compressctl.techniques.factorize.params import SvdParams
from compressctl.techniques.factorize.svd import apply as svd
from compressctl.techniques.prune.params import UnstructuredParams
from compressctl.techniques.prune.unstructured import apply as unstructured
from compressctl.techniques.quantize.dynamic import apply as dynamic
from compressctl.techniques.quantize.params import DynamicParams, StaticParams, WeightsParams
from compressctl.techniques.quantize.static import apply as static
from compressctl.techniques.quantize.weights import apply as weights
from compressctl.techniques.share.kmeans import apply as kmeans
from compressctl.techniques.share.params import KmeansParams

RNG = np.random.default_rng(0)


def _graph(nodes: list[onnx.NodeProto], shape: list[int | str], **constants: np.ndarray | tuple[int, ...]) -> OnnxModel:
    """constants: integers, or the shape of random weights."""
    stored = {
        name: (RNG.standard_normal(value) * 0.2).astype(np.float32) if isinstance(value, tuple) else value
        for name, value in constants.items()
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    body = onnx.shape_inference.infer_shapes(body)
    made = tuple(dim.dim_value or "batch" for dim in body.graph.output[0].type.tensor_type.shape.dim)
    axis = shape.index("batch")
    specs = (TensorSpec("x", "float32", tuple(shape), axis),), (TensorSpec("y", "float32", made, axis),)
    return OnnxModel(body, Signature(*specs))


def _recurrent(op: str, gates: int) -> OnnxModel:
    nodes = [
        helper.make_node(op, ["x", "w", "r", "b"], ["h"], "layer", hidden_size=24),
        helper.make_node("Squeeze", ["h", "axes"], ["y"], "squeeze"),
    ]
    sizes = {"w": (1, 24 * gates, 40), "r": (1, 24 * gates, 24), "b": (1, 48 * gates)}
    return _graph(nodes, [5, "batch", 40], **sizes, axes=np.array([1]))


node = helper.make_node
GRAPHS = {
    "Gemm with factors": _graph(
        [node("Gemm", ["x", "w", "b"], ["y"], "layer", alpha=0.5, beta=2.0, transB=1)],
        ["batch", 64],
        w=(48, 64),
        b=(48,),
    ),
    "Einsum": _graph(
        [node("Einsum", ["x", "w"], ["y"], "layer", equation="btc,cd->btd")], ["batch", 6, 64], w=(64, 48)
    ),
    "stacked MatMul": _graph([node("MatMul", ["x", "w"], ["y"], "layer")], ["batch", 3, 5, 64], w=(3, 64, 48)),
    "ConvTranspose": _graph(
        [node("ConvTranspose", ["x", "w", "b"], ["y"], "layer", strides=[2, 2])],
        ["batch", 32, 5, 5],
        w=(32, 48, 3, 3),
        b=(48,),
    ),
    "Split with sizes": _graph(
        [
            node("MatMul", ["x", "w"], ["h"], "layer"),
            node("Split", ["h", "sizes"], ["p", "q"], "split", axis=-1),
            node("Relu", ["p"], ["r"], "relu"),
            node("MatMul", ["r", "w2"], ["y"], "second"),
        ],
        ["batch", 64],
        w=(64, 48),
        sizes=np.array([32, 16]),
        w2=(32, 24),
    ),
    "gating": _graph(
        [
            node("MatMul", ["x", "w"], ["h"], "layer"),
            node("Split", ["h", "sizes"], ["p", "q"], "split", axis=-1),
            node("Sigmoid", ["q"], ["gate"], "sigmoid"),
            node("Mul", ["p", "gate"], ["m"], "gated"),
            node("MatMul", ["m", "w2"], ["y"], "second"),
        ],
        ["batch", 64],
        w=(64, 64),
        sizes=np.array([32, 32]),
        w2=(32, 24),
    ),
    "tied weights": _graph(
        [
            node("MatMul", ["x", "w"], ["h"], "layer"),
            node("Relu", ["h"], ["r"], "relu"),
            node("Gemm", ["r", "w"], ["y"], "second", transB=1),
        ],
        ["batch", 64],
        w=(64, 48),
    ),
    "channel shuffle": _graph(
        [
            node("Conv", ["x", "w"], ["h"], "layer"),
            node("Reshape", ["h", "apart"], ["a"], "apart"),
            node("Transpose", ["a"], ["t"], "turned", perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t", "together"], ["u"], "together"),
            node("Conv", ["u", "w2"], ["y"], "second"),
        ],
        ["batch", 16, 6, 6],
        w=(32, 16, 1, 1),
        apart=np.array([0, 2, 16, 6, 6]),
        together=np.array([0, 32, 6, 6]),
        w2=(24, 32, 1, 1),
    ),
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
}

Apply = Callable[[Any, Any, RunContext], Any]
TECHNIQUES: dict[str, tuple[Apply, Any]] = {
    "quantize.static": (static, StaticParams()),
    "quantize.weights": (weights, WeightsParams(bits=8)),
    "quantize.dynamic": (dynamic, DynamicParams()),
    "share.kmeans": (kmeans, KmeansParams(clusters=64)),
    "factorize.svd": (svd, SvdParams(rank=8, skip_slower=False, whitening=False, round_to=1)),
    "prune.unstructured": (unstructured, UnstructuredParams(sparsity=0.5, first_and_last="prune")),
}
REFUSED = {
    ("quantize.static", "stacked MatMul"): "integer kernels take one matrix",
    ("quantize.static", "ConvTranspose"): "for transposed convolutions; `quantize.weights` stores it",
    ("quantize.static", "LSTM"): "`quantize.dynamic` runs it on integers",
    ("quantize.static", "GRU"): "no runtime multiplies its weights as integers",
    ("quantize.dynamic", "stacked MatMul"): "integer kernels take one matrix",
    ("quantize.dynamic", "ConvTranspose"): "for transposed convolutions; `quantize.weights` stores it",
    ("quantize.dynamic", "channel shuffle"): "use quantize.static",
    ("factorize.svd", "stacked MatMul"): "a product of 3 axes",
    ("factorize.svd", "ConvTranspose"): "a transposed convolution",
    ("factorize.svd", "tied weights"): "two nodes read it in different orders",
    ("prune.unstructured", "tied weights"): "two nodes read it in different orders",
}
"""By technique and graph, what the refusal says."""

FAR = {"factorize.svd", "prune.unstructured"}
"""Techniques that change what is computed by more than rounding does."""


@dataclass(frozen=True)
class Calls:
    spec: TensorSpec
    classes: None = None
    fingerprint: str = ""

    def split(self, name: str) -> "Calls":
        return self

    def __len__(self) -> int:
        return 8

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, 8, size):
            shape = [min(size, 8 - start) if isinstance(dim, str) else dim for dim in self.spec.shape]
            values = np.random.default_rng(start).standard_normal(shape).astype(np.float32)
            yield Batch({"x": np.moveaxis(values, self.spec.batch_axis or 0, 0)}, None, np.arange(start, start + size))


def _run(body: onnx.ModelProto, spec: TensorSpec) -> np.ndarray:
    shape = [3 if isinstance(dim, str) else dim for dim in spec.shape]
    x = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    return exact_output(body, {"x": x})


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("use", TECHNIQUES)
def test_a_graphs_layer_is_compressed_or_the_reason_is_said(tmp_path: Path, use: str, name: str, backend: str) -> None:
    model, (apply, params) = GRAPHS[name], TECHNIQUES[use]
    [spec] = model.signature.inputs
    target = Target(backend, profile="x86-vnni")
    run = RunContext(0, Events(), tmp_path, target, Calls(spec))  # type: ignore[arg-type]
    if (use, name) in REFUSED:
        with pytest.raises(NothingToCompressError) as refused:
            apply(replace(model), params, run)
        said = f"{refused.value} {refused.value.hint}"
        assert REFUSED[use, name] in said
        assert backend == "onnxruntime" or "ONNX Runtime has no" not in said
        return
    result = apply(replace(model), params, run)
    assert not result.facts.get("untouched", {}).get("layers")
    written = _run(to_onnx(result.model, target, {}), spec)
    before = _run(model.body, spec)
    assert np.mean((written - before) ** 2) < (2.0 if use in FAR else 0.02) * np.mean(before**2)
    assert not np.array_equal(written, before)


class Net(nn.Module):
    """One kind of layer between two that the network's inputs and outputs fix."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv1d(6, 16, 1)
        self.up = nn.ConvTranspose1d(16, 12, 2, stride=2)
        self.norm, self.cell = nn.GroupNorm(2, 16), nn.GRU(16, 12, batch_first=True)
        self.second = nn.Conv1d(8 if kind in ("split", "chunk", "glu") else 16, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        match self.kind:
            case "ConvTranspose":
                x = self.up(x)
            case "split":
                x, y = torch.split(x, [8, 8], 1)
                x = self.second(torch.relu(x) + y)
            case "chunk":
                x, y = x.chunk(2, 1)
                x = self.second(x * y)
            case "glu":
                x = self.second(nn.functional.glu(x, 1))
            case "x * sigmoid(y)":
                x = self.second(x * torch.sigmoid(x))
            case "GroupNorm before GRU":
                x = self.cell(self.norm(x).transpose(1, 2))[0].transpose(1, 2)
            case "channel shuffle":
                x = self.second(x.unflatten(1, (2, 8)).transpose(1, 2).flatten(1, 2))
        return self.head(x.mean(2))


KINDS = {
    "ConvTranspose": {"first", "up"},
    "split": {"second"},  # the sizes are written into the code
    "chunk": {"first", "second"},
    "glu": {"first", "second"},
    "x * sigmoid(y)": {"first", "second"},
    "GroupNorm before GRU": {"first", "cell"},
    "channel shuffle": {"second"},
}
"""By kind, the layers of which prune.channels removes channels; the others say why not."""


@pytest.mark.parametrize("kind", KINDS)
def test_channels_go_or_the_reason_is_said(kind: str) -> None:
    torch.manual_seed(0)
    network, given = Net(kind).eval(), (torch.randn(2, 6, 7),)
    coupling = proven(find_coupling(network, given), network, given)
    assert {layer for group in coupling.groups for layer in group.layers} >= KINDS[kind]
    assert all(coupling.fixed.values())
    gone = removal(coupling.groups, {group.name: np.arange(group.units // 2) for group in coupling.groups})
    with torch.no_grad():
        smaller = cut(network, gone)
        assert torch.allclose(smaller(*given), mask(network, gone)(*given), atol=1e-5)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


class Parts(nn.Module):
    """A layer whose channels are split by sizes, each part read by another one; the sizes stand in attributes, or in the code."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        sizes = (12, 12) if kind == "one width" else (16, 8)
        layer = nn.Linear if kind == "tokens" else nn.Conv1d
        more = () if kind == "tokens" else (1,)
        self.first = layer(6, 24, *more)
        self.left, self.right = layer(sizes[0], 10, *more), layer(sizes[1], 10, *more)
        self.head = layer(10, 5, *more)
        if kind in ("a list", "tokens"):
            self.sizes = list(sizes)
        elif kind == "two numbers":
            self.wide, self.narrow = sizes
        elif kind == "one width":
            self.width = 12

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        match self.kind:
            case "a list":
                left, right = torch.split(x, self.sizes, dim=1)
            case "two numbers":
                left, right = x.split((self.wide, self.narrow), 1)
            case "one width":
                left, right = x.split(self.width, 1)
            case "tokens":
                left, right = x.split_with_sizes(self.sizes, dim=-1)
            case _:
                left, right = torch.split(x, [16, 8], 1)
        return self.head(self.left(left) * torch.sigmoid(self.right(right)))


@pytest.mark.parametrize("kind", ["a list", "two numbers", "one width", "tokens"])
def test_sizes_of_a_split_shrink_with_its_channels(kind: str) -> None:
    torch.manual_seed(0)
    network, original = Parts(kind).eval(), Parts(kind).eval()
    given = (torch.randn(2, 7, 6) if kind == "tokens" else torch.randn(2, 6, 7),)
    coupling = proven(find_coupling(network, given), network, given)
    group = next(group for group in coupling.groups if "first" in group.layers)
    gone = removal([group], {group.name: np.arange(group.units // 3)})
    smaller = cut(network, gone)
    with torch.no_grad():
        assert torch.allclose(smaller(*given), mask(network, gone)(*given), atol=1e-5)
        back = rebuild(original, describe(smaller, network))
        back.load_state_dict(smaller.state_dict())
        assert torch.equal(back(*given), smaller(*given))
    assert smaller.left.weight.shape[1] + smaller.right.weight.shape[1] == smaller.first.weight.shape[0] < 24


def test_sizes_that_are_written_into_the_code_are_said() -> None:
    network, given = Parts("the code").eval(), (torch.randn(2, 6, 7),)
    coupling = proven(find_coupling(network, given), network, given)
    assert "the sizes [16, 8] by which its channels are split are written into the code" in coupling.fixed["first"]
    assert {layer for group in coupling.groups for layer in group.layers} == {"left", "right"}


WAYS: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {
    "chunk": lambda x: x.chunk(2, 1),
    "chunk, axis from the end": lambda x: torch.chunk(x, 2, dim=-3),
    "tensor_split": lambda x: torch.tensor_split(x, 2, 1),
    "half of the width": lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
    "split by a size": lambda x: x.split(12, 1),
    "split by sizes": lambda x: torch.split(x, [12, 12], dim=-3),
    "tensor_split at a place": lambda x: torch.tensor_split(x, [12], 1),
    "slices": lambda x: (x[:, :12], x[:, 12:]),
    "narrow": lambda x: (x.narrow(1, 0, 12), x.narrow(1, 12, 12)),
    "unflatten": lambda x: x.unflatten(1, (2, 12)).unbind(1),
}
"""Ways to take two halves of 24 channels; the first four hold no number of channels."""


@pytest.mark.parametrize("way", WAYS)
def test_halves_are_cut_right_or_the_code_that_holds_their_size_is_said(way: str) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 24, 3), nn.Conv2d(10, 5, 1)
            self.left, self.right = nn.Conv2d(12, 10, 1), nn.Conv2d(12, 10, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = WAYS[way](torch.relu(self.first(x)))
            return self.head(self.left(left) * torch.sigmoid(self.right(right)))

    torch.manual_seed(0)
    network, given = Halves().eval(), (torch.randn(2, 3, 8, 8),)
    coupling = proven(find_coupling(network, given), network, given)
    groups = [group for group in coupling.groups if "first" in group.layers]
    if list(WAYS).index(way) >= 4:
        assert not groups
        assert "written into the" in coupling.fixed["first"]
        return
    gone = removal(groups, {group.name: np.arange(group.units // 3) for group in groups})
    with torch.no_grad():
        smaller = cut(network, gone)
        assert torch.allclose(smaller(*given), mask(network, gone)(*given), atol=1e-5)
    assert smaller.left.weight.shape[1] == smaller.right.weight.shape[1] == 8


def test_a_split_whose_parts_are_joined_again_hinders_no_other_layer() -> None:
    """As in YOLOv8's C2f: the trace reads slices less far than torch's own splits, so that both are tried."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 8
            self.first, self.inner, self.second = nn.Conv1d(6, 16, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(24, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = list(self.first(x).split((self.width, self.width), 1))
            return self.second(torch.cat([*parts, self.inner(parts[-1])], 1))

    torch.manual_seed(0)
    network, given = Joined().eval(), (torch.randn(2, 6, 7),)
    coupling = proven(find_coupling(network, given), network, given)
    assert "inner" in {layer for group in coupling.groups for layer in group.layers}
    assert coupling.fixed["first"]
