"""What `trainable: true` makes of an ONNX file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec, TorchModel
from compressctl.graph.quantized import already_quantized
from compressctl.sources.graph_network.words import CANNOT, HINT
from compressctl.sources.torch_modules import require_torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx

_BATCH = "batch"
_NAMELESS = "?"


def trainable(model: OnnxModel, path: Path, shapes: Mapping[str, int] | None = None) -> TorchModel:
    """The file's network, with the names of its inputs and outputs; what the file stores in 16 bits trains in float32. shapes: sizes of open axes that are fixed, by name or `input.axis`.
    Raises UsageError where there is no counterpart in torch, and for axes that there are not, MissingDependencyError without torch."""
    require_torch("`trainable`")
    from compressctl.sources.graph_network.read import network_of

    if quantized := already_quantized(model.body):
        raise UsageError(
            f"{path}: {CANNOT}: it holds integers already ({quantized[0]})",
            hint="start from the file that it was quantized from",
        )
    signature = _with_sizes(
        Signature(
            tuple(_by_samples(spec, "input", path) for spec in model.signature.inputs),
            tuple(_by_samples(spec, "output", path) for spec in model.signature.outputs),
        ),
        shapes or {},
    )
    try:
        network = network_of(_in_single(model.body))
    except UsageError as error:
        error.message = f"{path}: {error.message}"
        raise
    if not any(True for _ in network.parameters()):
        raise UsageError(f"{path}: {CANNOT}: it stores no weight in float32 or in 16 bits", hint=HINT)
    return TorchModel(network, signature)


def _by_samples(spec: TensorSpec, kind: str, path: Path) -> TensorSpec:
    """With an open number of samples along its first axis, as what trains deals them."""
    if spec.batch_axis != 0 or not spec.shape or isinstance(spec.shape[0], int):
        raise UsageError(
            f"{path}: {CANNOT}: the first axis of its {kind} {spec.name} {list(spec.shape)} does not count samples, any number of them",
            hint=f"export the model with an open batch axis, or {HINT}",
        )
    return replace(spec, shape=(_BATCH, *spec.shape[1:]))


def _with_sizes(signature: Signature, shapes: Mapping[str, int]) -> Signature:
    """Axes of one name have one size, in outputs too."""
    named = dict(shapes)
    places = {f"{spec.name}.{axis}": size for spec in signature.inputs for axis, size in enumerate(spec.shape) if axis}
    is_open = {place: size for place, size in places.items() if isinstance(size, str)}
    for name in shapes:
        if name in is_open:
            # An axis without a name is called ? wherever it stands.
            if is_open[name] != _NAMELESS:
                named[is_open[name]] = shapes[name]
        elif name not in is_open.values() or name == _NAMELESS:
            known = ", ".join(f"{place} ({size})" for place, size in is_open.items()) or "none"
            raise UsageError(f"shapes: {name} is no open axis of the model", hint=f"open axes: {known}")

    def fixed(spec: TensorSpec) -> TensorSpec:
        sizes = [named.get(f"{spec.name}.{axis}", named.get(str(size), size)) for axis, size in enumerate(spec.shape)]
        return replace(spec, shape=(spec.shape[0], *sizes[1:]))

    return Signature(tuple(map(fixed, signature.inputs)), tuple(map(fixed, signature.outputs)))


def as_file(graph: OnnxModel, network: TorchModel) -> OnnxModel:
    """The file, with the network's signature."""
    return replace(graph, signature=network.signature)


def proven(graph: OnnxModel, network: TorchModel, inputs: Mapping[str, np.ndarray]) -> None:
    """Compare them on real samples. Raises UsageError that names the node which computes something else."""
    from compressctl.sources.graph_network.network import GraphNetwork
    from compressctl.sources.graph_network.prove import proven as prove

    assert isinstance(network.body, GraphNetwork)
    prove(network.body, _in_single(graph.body), inputs)


def _in_single(model: onnx.ModelProto) -> onnx.ModelProto:
    """A canonical graph in float32 inside, whose small constants are stored and not computed."""
    from compressctl.graph.canonical import canonical
    from compressctl.graph.float16 import to_single

    single = to_single(model)
    return _with_stored_constants(model if single is model else canonical(single))


def _with_stored_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """What exporters compute from constants alone, such as the borders of a Pad, as constants: sizes must be numbers before anything is traced. The model itself where nothing is."""
    from compressctl.graph.fold_shapes import fold_shapes
    from compressctl.graph.shapes import LARGEST_READ, shapes
    from compressctl.graph.tensors import copy_of

    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if all(name in stored for name in node.input if name):
            stored.update(node.output)
    known = {name: shape for name, shape in shapes(model).items() if name in stored}
    made = copy_of(model)
    return made if fold_shapes(made, known, LARGEST_READ) else model
