"""OpenVINO's converter, for files wherever they lie."""

from __future__ import annotations

import tempfile
from pathlib import Path

import openvino


def convert(path: Path) -> openvino.Model:
    """The ONNX file as OpenVINO's model. The converter takes a comma in a path for the end of the first of several: such folders get a link."""
    if "," not in str(path):
        return openvino.convert_model(str(path))
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "folder"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        return openvino.convert_model(str(link / path.name))
