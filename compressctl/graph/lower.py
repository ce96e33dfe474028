"""From a PyTorch network to an ONNX graph: any batch size, BatchNorm inside the convolutions, stable names."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from compressctl.core.errors import CompressctlError, MissingDependencyError, StageError, UsageError, in_short, text_of
from compressctl.core.failures import chain, refused_in
from compressctl.core.model import Model, OnnxModel, Signature, TorchModel
from compressctl.core.quiet import quiet
from compressctl.graph.exported_names import name_after_modules
from compressctl.graph.fold_norm import fold_norms
from compressctl.graph.model_file import read_model
from compressctl.graph.normalize_negative_zero import one_zero
from compressctl.graph.open_axes import rename_axes
from compressctl.graph.session import open_graph
from compressctl.graph.tensors import move_to_files, scratch_folder
from compressctl.graph.torch_outputs import named_outputs, outputs_of, traced_sizes, zero_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = "batch"
IR_VERSION = 10
"""Written explicitly: an exporter that writes a newer one makes files that the runtimes in use refuse."""

_FIX_AXES = "fix the sizes of open axes that are the same in every call: input_shape of a network, shapes of a file that is trainable"

_COMPARED = 1 << 20
"""Numbers at a time."""

_TRACED_SAMPLES = 2
"""torch.export takes sizes 0 and 1 as fixed, so that the batch must be larger while tracing."""


def lower(model: TorchModel, opset: int = 20) -> OnnxModel:
    """The same function as an ONNX graph whose batch axis is called "batch".

    Nodes are called after the modules that they come from, constants after the parameters. No BatchNormalization is left
    behind a convolution. Prints nothing. Raises StageError when the network cannot be expressed as one graph.
    """
    module = _ready_to_export(model.body)
    proto = _export(module, model.signature, opset)
    _check_axes_are_free(proto, model.signature)
    name_after_modules(proto, _WRAPPER_PREFIX)
    fold_norms(proto.graph)
    one_zero(proto.graph)
    proto.ir_version = IR_VERSION
    return OnnxModel(move_to_files(proto), model.signature, history=model.history)


def as_graph(model: Model) -> OnnxModel:
    """The model itself where it is a graph already, else lowered."""
    return lower(model) if isinstance(model, TorchModel) else model


def parity(before: TorchModel, after: OnnxModel, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest absolute difference per output between the torch form and the ONNX form in ONNX Runtime.

    inputs: one batch by input name. Raises UsageError when the network does not run on it, StageError when ONNX Runtime cannot run the graph.
    """
    expected = {name: value.cpu().numpy() for name, value in _expected(before, inputs).items()}
    actual = _run(after.body, {spec.name: inputs[spec.name] for spec in before.signature.inputs})
    return {name: _largest_difference(value, actual[name]) for name, value in expected.items()}


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """In parts: logits of a large vocabulary take as much memory as a model's layer, and in float64 four times that."""
    if one.shape != other.shape:
        one, other = np.broadcast_arrays(one, other)
    first, second = one.reshape(-1), other.reshape(-1)
    parts = (slice(start, start + _COMPARED) for start in range(0, first.size, _COMPARED))
    largest = [np.abs(first[part].astype(np.float64) - second[part]).max() for part in parts]
    return float(np.max(largest, initial=0.0))  # NaN where any difference is


def _expected(model: TorchModel, inputs: Mapping[str, np.ndarray]) -> Mapping[str, Tensor]:
    try:
        return outputs_of(model, inputs)
    except Exception as error:
        taken = {spec.name: inputs[spec.name] for spec in model.signature.inputs}
        said = f"the network does not run on the data's samples, {', '.join(map(_in_short, taken, taken.values()))}"
        raise refused_in(said, error) or UsageError(
            f"{said}: {in_short(error)}",
            hint="are shapes and values what it was made for? Token ids lie in its vocabulary (is the tokenizer its own?), texts within its table of "
            "positions (data.max_length, window)",
        ) from error


def _in_short(name: str, array: np.ndarray) -> str:
    least, most = (array.min(), array.max()) if array.size else ("nothing", "nothing")
    return f"{name} {list(array.shape)} of {least} to {most}"


def _run(proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        session = open_graph(proto)
        outputs = session.run(None, dict(inputs))
    except Exception as error:
        said = "ONNX Runtime cannot run the exported graph"
        raise refused_in(said, error) or StageError(f"{said}: {error}") from error
    return dict(zip((output.name for output in session.get_outputs()), outputs, strict=True))


def _ready_to_export(body: nn.Module) -> nn.Module:
    """The network on the CPU and in eval mode; the caller's stays as it is."""
    on_cpu = all(tensor.device.type == "cpu" for tensor in (*body.parameters(), *body.buffers()))
    if on_cpu and not any(module.training for module in body.modules()):
        return body
    return copy.deepcopy(body).cpu().eval()


def _export(module: nn.Module, signature: Signature, opset: int) -> onnx.ModelProto:
    import torch

    from compressctl.graph.recurrent_nodes import recurrent_as_nodes

    _require_onnxscript()
    # torch.export takes inner sizes of 0 and 1 as fixed too: a network that shortens what it is given says how much longer it has to be.
    longer = max((int(getattr(part, "traced_longer", 0)) for part in module.modules()), default=0)
    samples = zero_inputs(signature.inputs, _TRACED_SAMPLES, longer)
    try:
        with quiet(prints=True), recurrent_as_nodes():
            program = torch.onnx.export(
                _flattened(module),
                samples,
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                dynamic_shapes=(_open_axes(signature),),
                verbose=False,
            )
    except Exception as error:
        raise _translated(error, signature) from error
    assert program is not None  # only when a file name was given
    # Written weight by weight: as a message they would all be in memory once more.
    path = scratch_folder("exported") / "model.onnx"
    program.save(path, external_data=True)
    return read_model(path)


def _require_onnxscript() -> None:
    from importlib.util import find_spec

    if find_spec("onnxscript") is None:
        raise MissingDependencyError("exporting a network to ONNX", "onnxscript", "pip install 'compressctl[torch]'")


_WRAPPER_PREFIX = "network"


def _flattened(module: nn.Module) -> nn.Module:
    """The network with its outputs as a tuple, in the order of their names in the signature."""
    from torch import nn

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, *inputs: Any) -> Any:
            return tuple(named_outputs(self.network(*inputs)).values())

    return Flattened().eval()


def _open_axes(signature: Signature) -> tuple[dict[int, Any], ...]:
    """By input, its axes without a size of their own."""
    import torch

    batch = torch.export.Dim(BATCH)
    # Ranges of other axes are nobody's to know: a table of positions ends somewhere.
    others = dict.fromkeys(traced_sizes(signature.inputs), torch.export.Dim.DYNAMIC)
    return tuple(
        {0: batch, **{axis: others[size] for axis, size in enumerate(spec.shape) if axis and isinstance(size, str)}}
        for spec in signature.inputs
    )


def _check_axes_are_free(proto: onnx.ModelProto, signature: Signature) -> None:
    """Those that are get the signature's names. What an output alone calls open may be one size in truth."""
    given = {size for spec in signature.inputs for size in spec.shape}
    specs = {spec.name: spec for spec in (*signature.inputs, *signature.outputs)}
    renamed: dict[str, str] = {}
    for value in (*proto.graph.input, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH:
            raise StageError(
                f"the network computes with a batch size that is written into its code ({value.name} would be fixed to it)",
                hint="use x.shape[0] or flatten(1) in its forward instead of a number",
            )
        for dim, size in zip(dims[1:], specs[value.name].shape[1:], strict=False):
            if isinstance(size, str) and size in given and not dim.dim_param:
                raise StageError(
                    f"the network computes with a length that is written into its code ({value.name} would be fixed to {dim.dim_value} as {size})",
                    hint="use the input's shape in its forward instead of a number",
                )
            if isinstance(size, str) and dim.dim_param:
                renamed[dim.dim_param] = size
    rename_axes(proto, renamed)


def _translated(error: Exception, signature: Signature) -> CompressctlError:
    """The exporter's pages of advice as one sentence that names the operator or the line."""
    refused = refused_in("the network cannot be exported", error)
    if refused is not None:
        return refused
    if own := next((part for part in chain(error) if isinstance(part, CompressctlError)), None):
        return own
    text = _chain(error)
    fixed = re.search(r"static shape of (\d+) for dimension inputs\['(\w+)'\]\.shape\[(\d+)\]", text)
    if fixed:
        return StageError(
            f"the network cannot be exported: it computes with the size of axis {fixed[3]} of {fixed[2]} as a number, {fixed[1]} where it was traced",
            hint=_FIX_AXES,
        )
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        return StageError(
            f"the network cannot be exported: ONNX has no counterpart for torch's {operator[1]}",
            hint="replace that operation in the network's forward by others",
        )
    line = re.search(r'raised this error:\s+File "([^"]+)", line (\d+), in \w+\n[ \t]*(.*)', text)
    place = f"\n   {line[1]}:{line[2]}: {line[3]}" if line else ""
    if "data-dependent" in text:
        return StageError(
            f"the network cannot be exported: its way depends on the values of a tensor{place}",
            hint="express the condition with tensors (torch.where), so that one graph serves every input",
        )
    summary = text.partition("## Exception summary")[2] or text
    first = next((part for part in summary.splitlines() if part.strip()), type(error).__name__)
    said = re.sub(r"^<class .*?>:? ?", "", first.strip()) or in_short([*chain(error)][-1])
    is_open = any(isinstance(size, str) for spec in signature.inputs for size in spec.shape[1:])
    return StageError(f"the network cannot be exported: {said}{place}", hint=_FIX_AXES if is_open else None)


def _chain(error: BaseException) -> str:
    return "\n".join(text_of(part) for part in chain(error))
