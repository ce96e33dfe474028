"""From a model and its quantization plan to OpenVINO IR, through OpenVINO's own converter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import openvino

from compressctl.backends.dialects.cpu import active_sites
from compressctl.backends.dialects.weight_only import weight_only_products
from compressctl.backends.onnx_file import save_onnx, to_onnx
from compressctl.backends.openvino.convert import convert
from compressctl.backends.openvino.nncf_weights import compress_weights
from compressctl.backends.openvino.translate import translated
from compressctl.backends.params import OpenVinoParams
from compressctl.backends.preprocess import KEY, as_served
from compressctl.backends.rules import WEIGHT_ONLY
from compressctl.backends.storage import as_stored
from compressctl.core.backend import Artifact
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.core.whole_files import FolderInWriting
from compressctl.graph.cost import costs, executed_macs
from compressctl.graph.fuse import fuse_hard_swish
from compressctl.graph.model_file import metadata

NOTES = ["compressctl", "nodes"]
"""Where in the IR's runtime info each node's MACs and the reason why it is float are kept, for `explain`."""

NOTES_IN_ONNX = "compressctl.nodes"
"""The same in the metadata of an ONNX file."""

_LEFT = "its inputs or weight were not quantized, or it multiplies two activations, which OpenVINO does faster in float"

PREPROCESS = ["compressctl", "preprocess"]


def build(model: OnnxModel, target: Target, folder: Path) -> Artifact:
    """Write model.xml and model.bin into folder, each whole or not at all. Raises StageError with the node at fault.

    With packed storage it writes model.onnx: OpenVINO's converter would unpack it, and the XML of the nodes that unpack takes
    more than they save in a small network. OpenVINO loads either.
    """
    options = OpenVinoParams.model_validate_json(json.dumps(dict(target.options)))
    model = replace(model, body=fuse_hard_swish(model.body))
    with FolderInWriting(folder) as scratch:
        if options.storage == "compressed":
            return _packed(model, target, scratch, folder, options)
        proto, called = as_served(to_onnx(model, target), model.signature, target)
        steps = metadata(proto).get(KEY)
        source = save_onnx(proto, scratch)
        try:
            converted = convert(source[0])
            _name_inputs(converted, [spec.name for spec in model.signature.inputs])
            if options.weights is not None:
                converted = compress_weights(converted, options.weights)
            if steps is not None:
                converted.set_rt_info(steps, PREPROCESS)
        except Exception as error:
            raise translated(error, source[0]) from error
        converted.set_rt_info(json.dumps(_notes(model)), NOTES)
        openvino.save_model(converted, scratch / "model.xml", compress_to_fp16=bool(options.float16_constants))
        files = [(scratch / name).replace(folder / name) for name in ("model.bin", "model.xml")]
    return Artifact("openvino", files[1], (files[1], files[0]), (*called, *_said(options)))


def _name_inputs(converted: openvino.Model, names: Sequence[str]) -> None:
    """OpenVINO takes a tensor past which nothing is computed for its input too, under both names: the model's is kept."""
    for port in converted.inputs:
        own = port.names & set(names)
        if len(own) == 1:
            port.get_tensor().set_names(own)


def _packed(model: OnnxModel, target: Target, scratch: Path, folder: Path, options: OpenVinoParams) -> Artifact:
    proto, stored = as_stored(to_onnx(model, target), target)
    proto, called = as_served(proto, model.signature, target)
    onnx.helper.set_model_props(proto, {**metadata(proto), NOTES_IN_ONNX: json.dumps(_notes(model))})
    written = save_onnx(proto, scratch)
    try:
        openvino.Core().read_model(written[0])
    except Exception as error:
        raise translated(error, written[0]) from error
    files = tuple(file.replace(folder / file.name) for file in reversed(written))
    return Artifact("openvino", files[-1], tuple(reversed(files)), (*_said(options), *called, *stored))


def _notes(model: OnnxModel) -> dict[str, list[Any]]:
    """By node, and by output too, since OpenVINO names a graph's last nodes after their outputs: MACs and rule.

    MACs are None where the file's open axes leave them unknown; `explain` counts them for a real sample.
    """
    body: onnx.ModelProto = model.body
    plan = model.quant
    active = {site.node for site in active_sites(model, Target("openvino"))}
    weight_only = {product.node for product in weight_only_products(body.graph, plan)}
    outputs = {node.name: node.output[0] for node in body.graph.node}
    notes: dict[str, list[Any]] = {}
    for name, macs in executed_macs(costs(body)).items():
        if macs == 0:
            continue
        rule = None
        if plan is not None and name not in active:
            rule = WEIGHT_ONLY if name in weight_only else plan.float_nodes.get(name, _LEFT)
        notes[name] = notes[outputs.get(name, name)] = [name, macs, rule]
    return notes


def _said(options: OpenVinoParams) -> tuple[str, ...]:
    notes = []
    if options.float16_constants:
        notes.append("float constants are stored as float16 in the file")
    if options.weights is not None:
        notes.append(f"weights that were in float are {options.weights.mode}, compressed by NNCF")
    if options.precision != "float32":
        notes.append(f"float layers run in {options.precision} where the processor can, accuracy included")
    return tuple(notes)
