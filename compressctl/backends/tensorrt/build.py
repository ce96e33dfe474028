"""From a model and its quantization plan to a file that TensorRT's parser takes, and the script that builds its engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from compressctl.backends.dialects.tensorrt import four_bit_products, four_bits
from compressctl.backends.dialects.weight_only import weight_only_products
from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.params import Profile, TensorRtParams
from compressctl.backends.preprocess import as_served, file_signature
from compressctl.backends.storage import as_stored
from compressctl.backends.tensorrt.rules import Graph, lint, two_of_four
from compressctl.core.backend import Artifact
from compressctl.core.errors import StageError, UsageError, first_line
from compressctl.core.model import OnnxModel, Signature, TensorSpec, fits
from compressctl.core.target import Target
from compressctl.core.whole_files import FolderInWriting
from compressctl.graph.float16 import OLDEST_OPSET, to_half
from compressctl.graph.index import all_nodes, index
from compressctl.graph.opset import converted, opset_of

_LARGEST_BATCH = 16
_TEMPLATE = Path(__file__).with_name("build_engine.py.txt")
_SETTINGS = "SETTINGS = {}"


def build(model: OnnxModel, target: Target, folder: Path) -> Artifact:
    """Write model.onnx and build_engine.py into folder, each whole or not at all.

    Raises StageError with the rule and the node when the graph breaks a rule that TensorRT enforces, UsageError for profiles
    that do not fit the model.
    """
    options = TensorRtParams.model_validate_json(json.dumps(dict(target.options)))
    target = replace(target, backend="tensorrt", options=options.model_dump(mode="json"))
    taken = file_signature(model.signature, target)
    _check_profiles(taken, options.profiles or {})
    proto = to_onnx(model, target)
    notes = ["engine not built: it is built on the GPU that serves it, by build_engine.py beside the file"]
    notes += [*_profile_notes(taken, options), *_weight_notes(model)]
    if options.precision == "float16":
        proto, kept = to_half(_new_enough(proto), options.float32_nodes)
        notes += [f"node {name} stays float32: {why}" for name, why in kept.items() if why != "asked for"]
    sparse = _sparse(proto, options, target)
    proto, stored = as_stored(proto, target)
    proto, called = as_served(proto, model.signature, target)
    notes += [*stored, *called]
    findings = lint(proto, sparse=sparse)
    if findings:
        lines = [f"{found.rule}: {found.node}: {found.message}" for found in findings[:5]]
        raise StageError(
            f"the graph breaks {len(findings)} of TensorRT's rules: " + "; ".join(lines),
            hint=_mend({finding.rule for finding in findings}),
        )
    settings = _settings(taken, options, target, sparse)
    with FolderInWriting(folder) as scratch:
        files = save_onnx(proto, scratch)
        script = scratch / "build_engine.py"
        script.write_text(_TEMPLATE.read_text(encoding="utf-8").replace(_SETTINGS, f"SETTINGS = {settings!r}"))
        moved = tuple(file.replace(folder / file.name) for file in (*files, script))
    return Artifact("tensorrt", moved[0], moved, tuple(notes), stand_in=True, opset=opset_of(proto))


def _mend(rules: set[str]) -> str:
    if rules == {"imported-operators"}:
        return "export the model with other operators, or cut those off and run them outside the engine"
    return "`compressctl explain tensorrt` lists the rules; keep those nodes in float with an override"


def _weight_notes(model: OnnxModel) -> list[str]:
    """What became of weights that the plan quantizes alone, where TensorRT has another form for them or none."""
    if model.quant is None:
        return []
    four_bit = {product.node for product in four_bit_products(model)}
    found, plan = index(model.body.graph), model.quant
    notes = []
    products = weight_only_products(model.body.graph, plan)
    known = {*filter(plan.is_float, plan.float_nodes), *(product.node for product in products)}
    for node in all_nodes(model.body.graph):
        weights = [name for name in node.input[1:3] if name in plan.weights]
        if weights and node.name not in known and node.op_type != "Gather" and node.input[0] not in plan.activations:
            kinds = " and ".join(dict.fromkeys(plan.weights[name].dtype for name in weights))
            notes.append(
                f"{node.name}: its {kinds} weights are stored in float, TensorRT takes few bits in products alone"
            )
    for product in products:
        stored = found.array(product.weight)
        assert stored is not None
        if product.node not in four_bit:
            notes.append(
                f"{product.node}: its {product.quant.dtype} weight is stored in float, TensorRT takes INT4 in blocks"
            )
            continue
        written = four_bits(stored.T if product.transposed else stored, product.quant)
        if (written.dtype, written.block) != (product.quant.dtype, product.quant.block):
            notes.append(f"{product.node}: its weight was rounded again, to INT4 around zero in blocks of 64")
        elif written is not product.quant:
            notes.append(
                f"{product.node}: blocks of its weight were rounded again, with scales above zero, as TensorRT takes them"
            )
    return notes


def _new_enough(proto: onnx.ModelProto) -> onnx.ModelProto:
    current = opset_of(proto)
    if current >= OLDEST_OPSET:
        return proto
    try:
        return converted(proto, OLDEST_OPSET)
    except Exception as error:
        raise StageError(
            f"the graph cannot be converted to opset {OLDEST_OPSET}, which float16 Q/DQ needs: {first_line(error)}",
            hint="set precision: float32 for tensorrt under export",
        ) from error


def _sparse(proto: onnx.ModelProto, options: TensorRtParams, target: Target) -> bool:
    """2:4 kernels where asked for, else where any weight holds the pattern; not on Turing."""
    if options.sparse_weights is not None:
        return options.sparse_weights
    return target.profile != "nvidia-sm75" and any(map(two_of_four, Graph.all(proto, sparse=False)))


def _settings(taken: Signature, options: TensorRtParams, target: Target, sparse: bool) -> dict[str, Any]:
    given = options.profiles or {}
    return {
        "profiles": {
            spec.name: given[spec.name].model_dump(mode="json") if spec.name in given else _profile(spec, target)
            for spec in _open_inputs(taken)
        },
        "workspace_bytes": options.workspace,
        "sparse": sparse,
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
    }


def _open_inputs(taken: Signature) -> list[TensorSpec]:
    return [spec for spec in taken.inputs if any(isinstance(axis, str) for axis in spec.shape)]


def _check_profiles(taken: Signature, given: Mapping[str, Profile]) -> None:
    """Raises UsageError for a profile that TensorRT would refuse on the GPU, after the build has begun there."""
    inputs = {spec.name: spec for spec in taken.inputs}
    for name, profile in given.items():
        where = f"tensorrt.profiles.{name}"
        if name not in inputs:
            raise UsageError(f"{where}: the model has no such input", hint=f"its inputs are {', '.join(inputs)}")
        spec = inputs[name]
        axes = " x ".join(str(axis) for axis in spec.shape)
        for least, best, most in zip(profile.min, profile.opt, profile.max, strict=False):
            if not least <= best <= most:
                raise UsageError(f"{where}: min, opt and max must grow, here {least}, {best}, {most}", hint="swap them")
        for label, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max)):
            if not fits(shape, spec.shape):
                told = " x ".join(map(str, shape))
                raise UsageError(f"{where}.{label}: {told} does not fit {axes}", hint="only the named axes may vary")


def _profile_notes(taken: Signature, options: TensorRtParams) -> list[str]:
    """Open axes beyond the batch of which nothing says how long they get."""
    return [
        f"the engine takes 1 to {_LARGEST_BATCH} along the axes {', '.join(axes)} of {spec.name}: set profiles if it shall more"
        for spec in _open_inputs(taken)
        if spec.name not in (options.profiles or {})
        and (axes := [axis for axis in spec.shape[1:] if isinstance(axis, str)])
    ]


def _profile(spec: TensorSpec, target: Target) -> dict[str, list[int]]:
    """Every open axis from 1 to 16, the first fastest at the target's batch."""

    def shape(batch: int, other: int) -> list[int]:
        sizes = [batch, *[other] * (len(spec.shape) - 1)]
        return [axis if isinstance(axis, int) else size for axis, size in zip(spec.shape, sizes, strict=True)]

    most = max(_LARGEST_BATCH, target.batch_size)
    return {"min": shape(1, 1), "opt": shape(target.batch_size, _LARGEST_BATCH), "max": shape(most, _LARGEST_BATCH)}
