"""A first recipe for a model that nobody has written one for: what can be read from the file, and a remark where it cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from compressctl.core.errors import UsageError
from compressctl.pipeline.starter_text import Starter, head, relative, remark, scalar, target
from compressctl.sources.params import RandomInput

if TYPE_CHECKING:
    import onnx

    from compressctl.core.model import Signature, TensorSpec

_MASK, _SEGMENT, _RATE = (
    re.compile(text, re.IGNORECASE) for text in ("mask", r"token_?type|segment", r"^(sr|(sample|sampling)_?rate)$")
)
_RANDOM = get_args(RandomInput.model_fields["dtype"].annotation)
_GUESSED_TOKENS, _GUESSED_PIXELS, _GUESSED_STEPS = 128, 224, 512
_GUESSED_VOCABULARY = 1000


def for_onnx(path: Path, written_to: Path, data: Path | None, shapes: Mapping[str, int]) -> Starter:
    """A recipe for an ONNX file. data: samples that somebody has, None for random ones. shapes: sizes of open axes.

    Raises UsageError when the file is no ONNX model, when data is of no kind that can be told, and for a size of no open axis.
    """
    from compressctl.graph.open_axes import open_axes
    from compressctl.sources.onnx_file import read_onnx, signature_of

    model = read_onnx(path)
    signature = signature_of(model.graph, path)
    known = {
        key: axis.name
        for axis in open_axes(model.graph)
        if not axis.counts_samples
        for key in (axis.name, f"{axis.input}.{axis.axis}")
    }
    for name in shapes:
        if name not in known:
            raise UsageError(
                f"the model has no open axis {name!r}", hint=f"open axes: {', '.join(known) or 'none but the batch'}"
            )
    sizes = {known[name]: size for name, size in shapes.items()}
    section = _random(signature, model, sizes) if data is None else _found(data, signature, written_to.parent)
    return Starter(
        "\n".join(
            [
                *head(path.name, path.stem, section.task),
                f"model: {{source: onnx, path: {scalar(relative(path, written_to.parent))}}}",
                *(f"#  in   {_told(spec)}" for spec in signature.inputs),
                *(f"#  out  {_told(spec)}" for spec in signature.outputs),
                *_streaming(signature),
                "",
                *section.lines,
                "",
                *target(sizes),
                *_stages(model, is_random=data is None, task=section.task),
            ]
        )
        + "\n",
        section.unsure,
    )


def _streaming(signature: Signature) -> list[str]:
    """What a recipe may say where outputs look like an input's next value."""
    from compressctl.core.streaming import recognised

    pairs = ", ".join(f"{scalar(name)}: {scalar(output)}" for name, output in recognised(signature).items())
    told = (
        "# A streaming model? Then samples are sequences, and `model` says which outputs are inputs of the next step:"
    )
    return [told, f"#   states: {{{pairs}}}"] if pairs else []


def for_python(factory: str) -> Starter:
    """A recipe for a PyTorch network that a function makes. factory: "file.py:name"."""
    lines = [
        *head(factory, factory.rpartition(":")[2], "classification"),
        "model:",
        "  source: python",
        f"  factory: {scalar(factory)}                 # a function without arguments that returns the nn.Module",
        "  # weights: weights.safetensors               # or a .pt file that holds tensors only",
        "  input_shape: [3, 224, 224]                   # of one sample, without the batch axis",
        "",
        "data:",
        "  source: image_folder                         # or npz, csv, python, ...: `compressctl list`",
        "  path: images/                                # one folder per class",
        "  resize: [224, 224]",
        "",
        *target({}),
        "stages:",
        "  - use: quantize.static                       # `compressctl list` names the others, `explain NAME` tells more",
        "    gate: {accuracy_drop: 1.0}                 # layers that cost too much go back to float",
        "",
        "budget: {accuracy_drop: 1.0}                   # decides the exit code: 0 inside, 1 missed",
    ]
    return Starter("\n".join(lines) + "\n", ("model.input_shape and data are examples: write your own",))


def for_builtin(name: str) -> Starter:
    """A recipe for a network that comes with the package."""
    lines = [
        *head(name, name, "classification"),
        f"model: {{source: builtin, name: {name}}}",
        "data: {source: digits}",
        "",
        *target({}),
        "stages:",
        "  - use: quantize.static",
        "    gate: {accuracy_drop: 1.0}",
    ]
    return Starter("\n".join(lines) + "\n")


@dataclass(frozen=True)
class _Section:
    lines: tuple[str, ...]
    task: str = "custom"
    unsure: tuple[str, ...] = ()


def _told(spec: TensorSpec) -> str:
    axes = [f"{axis}*" if at == spec.batch_axis else str(axis) for at, axis in enumerate(spec.shape)]
    batch = "   (* counts samples)" if spec.batch_axis is not None else ""
    return remark(f"{spec.name}  {spec.dtype} {' x '.join(axes) or 'scalar'}{batch}")


def _random(signature: Signature, model: onnx.ModelProto, sizes: Mapping[str, int]) -> _Section:
    guessed: list[str] = []
    entries = []
    known = {**_guesses(signature, sizes, guessed), **sizes}
    for spec in signature.inputs:
        if spec.dtype not in _RANDOM:
            raise UsageError(
                f"the input {spec.name} takes {spec.dtype}, which random values cannot be",
                hint="record calls of your own and name them with --data",
            )
        shape = [
            axis if isinstance(axis, int) else known[axis]
            for at, axis in enumerate(spec.shape)
            if at != spec.batch_axis
        ]
        entry = [f"shape: {shape}", f"dtype: {spec.dtype}", *_range(spec, model, guessed)]
        if spec.batch_axis is None:
            entry.append("shared: true")
        entries.append(f"    {scalar(spec.name)}: {{{', '.join(entry)}}}")
    example = ", ".join(f"{spec.name}=..." if spec.name.isidentifier() else "..." for spec in signature.inputs[:2])
    lines = (
        "# Random values give sizes and speed, and say nothing about what the outputs become on real ones. Better: record",
        f'# calls of your own with numpy.savez("recorded/0001.npz", {example}), and write',
        "#   data: {source: requests, path: recorded/}",
        "data:",
        "  source: random",
        "  inputs:",
        *entries,
    )
    return _Section(lines, unsure=tuple(dict.fromkeys(guessed)))


def _guesses(signature: Signature, sizes: Mapping[str, int], guessed: list[str]) -> dict[str, int]:
    """One size for each open axis that has none, whatever inputs share it."""
    found: dict[str, int] = {}
    for spec in signature.inputs:
        for at, axis in enumerate(spec.shape):
            if isinstance(axis, int) or at == spec.batch_axis or axis in sizes or axis in found:
                continue
            is_image = len(spec.shape) == 4
            size = _GUESSED_PIXELS if is_image else _GUESSED_TOKENS if spec.dtype.startswith("int") else _GUESSED_STEPS
            found[axis] = size
            guessed.append(f"{axis} = {size} is a guess: write the size that you use, or pass --shape {axis}=SIZE")
    return found


def _range(spec: TensorSpec, model: onnx.ModelProto, guessed: list[str]) -> list[str]:
    """Integers stay below `high`."""
    if not spec.dtype.startswith(("int", "uint")):
        return []
    if _MASK.search(spec.name):
        return ["low: 1", "high: 2"]
    if _SEGMENT.search(spec.name):
        return ["low: 0", "high: 1"]
    if _RATE.search(spec.name):
        return ["low: 16000", "high: 16001"]
    rows = _rows_looked_up(spec.name, model)
    if rows:
        return ["low: 0", f"high: {rows}"]
    guessed.append(f"the range of {spec.name} is a guess: write which integers it takes")
    return ["low: 0", f"high: {_GUESSED_VOCABULARY}"]


def _rows_looked_up(name: str, model: onnx.ModelProto) -> int | None:
    """Rows of the table that an input indexes, through casts."""
    names = {name}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in names:
            names.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in weights:
            return int(weights[node.input[0]][0])
    return None


def _found(data: Path, signature: Signature, base: Path) -> _Section:
    """The data section for a path that somebody has."""
    where = scalar(relative(data, base))
    if data.is_dir() and any(data.glob("*.npz")):
        _check_call(min(data.glob("*.npz")), signature)
        return _Section((f"data: {{source: requests, path: {where}}}   # recorded calls, one .npz each",))
    if data.is_dir() and any(data.glob("test_data_set_*")):
        return _Section((f"data: {{source: onnx_test_data, path: {where}}}",))
    if data.is_dir() and any(entry.is_dir() for entry in data.iterdir()):
        return _images(where, signature)
    if data.suffix == ".npz" and not data.is_dir() and data.exists():
        return _arrays(data, where, signature)
    if not data.exists():
        raise UsageError(f"--data {data} does not exist")
    raise UsageError(
        f"--data {data}: no kind of data that a recipe could be written for",
        hint="a folder of recorded calls (.npz), of test_data_set_*, or of one folder of images per class; or an .npz file",
    )


def _check_call(file: Path, signature: Signature) -> None:
    """Raises UsageError where a recorded call is not one of this model."""
    from compressctl.sources.npz_file import NpzFile

    with NpzFile(file) as opened:
        found = {name: opened.get(name).ndim for name in opened.names}
    for spec in signature.inputs:
        if spec.name not in found:
            raise UsageError(
                f"{file} holds {', '.join(found) or 'nothing'}, and the model takes {spec.name}",
                hint="name the arrays like the model's inputs",
            )
        if found[spec.name] != len(spec.shape):
            raise UsageError(
                f"{file}: {spec.name} has {found[spec.name]} axes, and the model takes {_told(spec)}",
                hint="record the inputs exactly as the model takes them",
            )


def _images(where: str, signature: Signature) -> _Section:
    image = next((spec for spec in signature.inputs if len(spec.shape) == 4), None)
    if image is None:
        raise UsageError("--data is a folder of images, and no input of the model takes images (four axes)")
    is_last = image.shape[3] in (1, 3) and image.shape[1] not in (1, 3)
    channels = image.shape[3 if is_last else 1]
    size = [
        axis if isinstance(axis, int) else _GUESSED_PIXELS
        for axis in (image.shape[1:3] if is_last else image.shape[2:])
    ]
    lines = [
        "data:",
        "  source: image_folder   # one folder per class",
        f"  path: {where}",
        f"  input_name: {scalar(image.name)}",
        f"  resize: {size}",
        "  # scale, mean, std: as the network was trained; `compressctl explain image_folder`",
    ]
    if is_last:
        lines.append("  layout: NHWC")
    if channels == 1:
        lines.append("  color: gray")
    return _Section(tuple(lines), "classification", ("data: write the resize, scale, mean and std of the training",))


def _arrays(data: Path, where: str, signature: Signature) -> _Section:
    from compressctl.sources.npz_file import NpzFile

    with NpzFile(data) as opened:
        names = opened.names
    wanted = [spec.name for spec in signature.inputs]
    if set(wanted) <= set(names):
        inputs = wanted[0] if len(wanted) == 1 else f"[{', '.join(map(scalar, wanted))}]"
    else:
        inputs = f"{scalar(next(iter(names), 'inputs'))}   # it holds {remark(', '.join(names))}; the model takes {remark(', '.join(wanted))}"
    has_labels = "labels" in names
    lines = (
        "data:",
        "  source: npz",
        f"  path: {where}",
        f"  inputs: {inputs}",
        f"  labels: {'labels' if has_labels else 'null'}",
    )
    unsure = () if set(wanted) <= set(names) else ("data.inputs is a guess: name the arrays that the model takes",)
    return _Section(lines, "classification" if has_labels else "custom", unsure)


def _stages(model: onnx.ModelProto, is_random: bool, task: str) -> list[str]:
    from compressctl.graph.quantized import already_quantized

    gate = "accuracy_drop: 1.0" if task == "classification" else "sqnr_db: 20"
    held = [f"    gate: {{{gate}}}   # layers that cost more than that go back to float"]
    quantized = already_quantized(model)
    if quantized:
        found = "; ".join(str(part) for part in quantized)
        return [
            "stages:",
            f"  # The file is quantized already: {remark(found)}.",
            "  # What could still be done to it is little; `compressctl inspect` shows its layers.",
            "  - use: cast",
            "    dtype: float16",
        ]
    shares = _weights_by_kind(model)
    lines = [
        "stages:   # in order; `compressctl list` names all techniques, `compressctl explain NAME` tells about one"
    ]
    if shares.get("products", 0) > shares.get("convolutions", 0):
        return [*lines, "  - use: quantize.dynamic   # 8 bits, activations as they come", *([] if is_random else held)]
    if shares.get("convolutions", 0) > 0:
        if is_random:
            return [
                *lines,
                "  - use: quantize.weights   # 8 bits for weights alone: needs no data. With real data write quantize.static,",
                "    bits: 8                 # which computes in integers and is faster.",
            ]
        return [*lines, "  - use: quantize.static   # 8 bits, ranges from the calibration samples", *held]
    return [
        *lines,
        "  - use: cast   # no convolution or matrix product of the main graph has float32 weights",
        "    dtype: float16",
    ]


_KINDS = {
    "Conv": "convolutions",
    "ConvTranspose": "convolutions",
    "Gemm": "products",
    "MatMul": "products",
}


def _weights_by_kind(model: onnx.ModelProto) -> dict[str, int]:
    from compressctl.graph.summary import summarize

    found: dict[str, int] = {}
    for layer in summarize(model).layers:
        kind = _KINDS.get(layer.op)
        if kind and layer.within is None and layer.parameter_bytes == 4 * layer.parameters:
            found[kind] = found.get(kind, 0) + layer.parameters
    return found
