"""Exported files that are named on the command line, without the run that made them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressctl.core.backend import Artifact
    from compressctl.core.data import Dataset
    from compressctl.core.model import Signature
    from compressctl.measure.samples import Samples
    from compressctl.recipe.schema import DataSection


@contextmanager
def exported_files(paths: Sequence[Path]) -> Iterator[list[tuple[Artifact, Signature]]]:
    """Files by their endings: `.xml` is OpenVINO's, `.cctl` is packed and lies unpacked for as long as this lasts, everything
    else is read as ONNX. Raises UsageError, StageError and PackedError."""
    with tempfile.TemporaryDirectory() as folder:
        yield [_exported_file(_unpacked(path, Path(folder) / str(place))) for place, path in enumerate(paths)]


def _unpacked(path: Path, folder: Path) -> Path:
    if path.suffix.lower() != ".cctl":
        return path
    from compressctl import packed

    folder.mkdir()
    packed.unpack(path, folder / f"{path.stem}.onnx")
    return folder / f"{path.stem}.onnx"


def _exported_file(path: Path) -> tuple[Artifact, Signature]:
    from compressctl.core.backend import Artifact

    if path.suffix != ".xml":
        from compressctl.backends.preprocess import KEY, before_preprocessing, read_steps
        from compressctl.graph.model_file import metadata
        from compressctl.sources.onnx_file import read_onnx, signature_of

        proto = read_onnx(path)
        signature = before_preprocessing(signature_of(proto.graph, path), read_steps(metadata(proto).get(KEY), path))
        return Artifact("onnxruntime", path, (path,)), signature
    from compressctl.core.backend import BackendSpec, backends
    from compressctl.core.errors import MissingDependencyError
    from compressctl.pipeline.workspace import open_backend
    from compressctl.sources.fingerprint import existing

    spec: BackendSpec = backends.get("openvino")
    if not open_backend("openvino").probe().installed:
        raise MissingDependencyError("the openvino backend", spec.package, spec.install)
    from compressctl.backends.openvino.signature import signature_of as openvino_signature

    files = (path, path.with_suffix(".bin"))
    for file in files:
        existing(file, what="OpenVINO's file")
    return Artifact("openvino", path, files), openvino_signature(path)


def data_section(recipe: Path | None) -> DataSection | None:
    """A recipe's `data`; None without a recipe. Raises UsageError where it names none."""
    from compressctl.core.errors import UsageError
    from compressctl.recipe.loader import load

    if recipe is None:
        return None
    found = load(recipe).data
    if found is None:
        raise UsageError(f"{recipe} names no data", hint="add a `data` section")
    return found


def dataset_of(recipe: Path | None) -> Dataset | None:
    """What a recipe's `data` names; None without a recipe. Raises UsageError where it names none."""
    from compressctl.recipe.loader import load
    from compressctl.sources.load import load_dataset

    section = data_section(recipe)
    if section is None or recipe is None:
        return None
    loaded = load(recipe)
    return load_dataset(section, loaded.base, loaded.seed)


def declared_in(recipe: Path | None, signature: Signature) -> Signature:
    """With the states and constants that a recipe's model has. Raises UsageError where they do not fit."""
    from compressctl.recipe.loader import load
    from compressctl.sources.onnx_file import declared
    from compressctl.sources.params import OnnxParams

    params = None if recipe is None else load(recipe).model.params
    return declared(signature, params) if isinstance(params, OnnxParams) else signature


def timed_samples(recipe: Path | None, signature: Signature, shapes: Mapping[str, int]) -> Samples:
    """What a file is timed on: a sample of the recipe's data; of a model with states the first step of a sequence."""
    from compressctl.measure.samples import Samples
    from compressctl.sources.called import CalledDataset, first_step

    known, data = declared_in(recipe, signature), dataset_of(recipe)
    if known.states and data is not None:
        data = CalledDataset(data, lambda split: first_step(known, split))
    return Samples(known, data, shapes)


def writable(path: Path, force: bool, option: str = "--output", *, makes_folder: bool = False) -> Path:
    """The path of a file to write. option: that names it. makes_folder: its folder need not be there.

    Raises UsageError when one is there and force was not given, when it is no file, and when its folder is not there.
    """
    from compressctl.core.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"name a file with {option}")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint=f"--force writes over it, {option} chooses another name")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is a device or a pipe", hint=f"name a file with {option}")
    if not path.parent.is_dir() and (path.parent.exists() or not makes_folder):
        raise UsageError(f"cannot write {path}: {path.parent} is no folder", hint="make it, or name another")
    return path


def parsed_size(option: str, text: str) -> int:
    """Bytes from `5MB`. Raises UsageError that names the option."""
    from compressctl.core.errors import UsageError
    from compressctl.recipe.schema import parse_size

    try:
        size = int(parse_size(text if not text.isdecimal() else int(text)))
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None
    return size
