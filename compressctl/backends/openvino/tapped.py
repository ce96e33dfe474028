"""An OpenVINO model's inner tensors: which it has, and a copy that gives them as outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import openvino

from compressctl.core.backend import Artifact

_NO_LAYERS = ("Parameter", "Result", "Constant")


def layers(path: Path) -> list[tuple[str, str, str]]:
    """Node, operator and tensor of every output that has a name, in the order of execution."""
    model = openvino.Core().read_model(path)
    found = []
    for op in model.get_ordered_ops():
        if op.get_type_name() in _NO_LAYERS:
            continue
        for output in op.outputs():
            names = sorted(output.get_names())
            if names:
                found.append((op.get_friendly_name(), op.get_type_name(), names[0]))
    return found


def write_tapped(path: Path, tensors: Sequence[str], folder: Path) -> Artifact:
    """The model with these tensors as its only outputs, under their names."""
    model = openvino.Core().read_model(path)
    by_name = {name: output for op in model.get_ordered_ops() for output in op.outputs() for name in output.get_names()}
    results = []
    for name in tensors:
        by_name[name].get_tensor().set_names({name})
        results.append(by_name[name])
    tapped = openvino.Model(results, model.get_parameters(), "tapped")
    file = folder / "tapped.xml"
    openvino.save_model(tapped, file, compress_to_fp16=False)
    return Artifact("openvino", file, (file, file.with_suffix(".bin")))
