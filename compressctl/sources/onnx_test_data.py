"""The test_data_set_* folders that the ONNX model zoo ships beside its files: input_*.pb, and output_*.pb as expectations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.regular_files import read_regular
from compressctl.core.source import SplitSizes
from compressctl.sources.fingerprint import existing_folder, source_fingerprint
from compressctl.sources.named_arrays import check_numbers
from compressctl.sources.params import OnnxTestDataParams
from compressctl.sources.requests import Recorded, RequestDataset
from compressctl.sources.splits import choose

if TYPE_CHECKING:
    import onnx

VERSION = 1


def load(params: OnnxTestDataParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """A folder is one call. Raises UsageError when there is none, or the first cannot be read."""
    folders = _folders(params, base)

    def read(position: int) -> Recorded:
        return _read(folders[position], params)

    read(0)
    return RequestDataset(read, choose(len(folders), sizes, seed))


def fingerprint(params: OnnxTestDataParams, base: Path) -> str:
    files = {
        f"{folder.name}/{path.name}": path for folder in _folders(params, base) for path in sorted(folder.glob("*.pb"))
    }
    return source_fingerprint("onnx_test_data", VERSION, params, files)


def _folders(params: OnnxTestDataParams, base: Path) -> list[Path]:
    root = existing_folder(base / params.path, what="the folder of test data")
    found = [path for path in root.glob("test_data_set_*") if path.is_dir()]
    if not found and any(root.glob("input_*.pb")):
        found = [root]
    if not found:
        raise UsageError(
            f"{root} holds no test_data_set_* folder",
            hint="name the folder that the model zoo's archive was unpacked to",
        )
    return sorted(found, key=lambda path: _number(path.name))


def _read(folder: Path, params: OnnxTestDataParams) -> Recorded:
    inputs = _tensors(folder, "input", params.inputs)
    if not inputs:
        raise UsageError(f"{folder} holds no input_*.pb")
    return Recorded(inputs, expected=_tensors(folder, "output", params.outputs))


def _tensors(folder: Path, kind: str, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    import onnx
    from onnx import numpy_helper

    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: _number(path.stem))
    if names is not None and files and len(names) != len(files):
        raise UsageError(f"{folder} holds {len(files)} {kind}s, data.{kind}s names {len(names)}")
    found = {}
    for place, path in enumerate(files):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(read_regular(path))
            array = numpy_helper.to_array(tensor)
        except Exception as error:
            raise UsageError(f"{path} holds no tensor: {error}", hint="sequences and maps are not read") from error
        found[names[place] if names else _name(tensor, path, kind)] = check_numbers(array, str(path))
    return found


def _name(tensor: onnx.TensorProto, path: Path, kind: str) -> str:
    if not tensor.name:
        raise UsageError(
            f"{path} does not say which {kind} it is",
            hint=f"name them in order, as in `data: {{{kind}s: [first, second]}}`",
        )
    return tensor.name


def _number(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdecimal() else (1 << 30, name)
