"""A model opened in OpenVINO as it would serve."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from compressctl.backends.openvino.build import PREPROCESS
from compressctl.backends.openvino.translate import translated
from compressctl.backends.params import OpenVinoParams, Preprocess
from compressctl.backends.preprocess import KEY, images_of, read_steps
from compressctl.core.errors import UsageError
from compressctl.core.machine import library_threads
from compressctl.core.target import Target
from compressctl.graph.model_file import metadata, parse

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class OpenVinoSession:
    """A Session. steps: preprocessing inside the model, for which prepared arrays are turned back into images."""

    def __init__(self, compiled: openvino.CompiledModel, path: Path, steps: Preprocess | None) -> None:
        self._request = compiled.create_infer_request()
        self._path = path
        self._steps = steps
        self._ports = list(compiled.inputs)
        self._outputs = [port.any_name for port in compiled.outputs]
        self._given: dict[str, openvino.Tensor] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch. Raises UsageError for inputs that the model does not take."""
        given = self._checked(inputs)
        self._given = {}
        try:
            found = self._request.infer(given, share_inputs=True)
        except Exception as error:
            raise translated(error, self._path) from error
        return {name: np.array(found[position]) for position, name in enumerate(self._outputs)}

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """OpenVINO's call on these inputs, checked once, here. Raises as `run` does, but takes any numbers: it is for timing."""
        tensors = {
            name: openvino.Tensor(np.ascontiguousarray(array))
            for name, array in self._checked(inputs, exact=False).items()
        }

        def infer() -> object:
            if self._given is not tensors:  # another call's
                for name, tensor in tensors.items():
                    self._request.set_tensor(name, tensor)
                self._given = tensors
            return self._request.infer()

        return infer

    def _checked(self, inputs: Mapping[str, np.ndarray], *, exact: bool = True) -> dict[str, np.ndarray]:
        ports = {name: port for name in inputs for port in self._ports if name in port.names}
        if len(ports) != len(inputs) or {id(port) for port in ports.values()} != {id(port) for port in self._ports}:
            taken = ", ".join(port.any_name for port in self._ports)
            raise UsageError(
                f"{self._path.name} takes {taken} but was given {', '.join(inputs) or 'nothing'}",
                hint="name the arrays like the model's inputs",
            )
        given = images_of(inputs, self._steps, exact=exact)
        for name, array in given.items():
            wanted = ports[name].element_type.to_dtype()
            if array.dtype != wanted:
                raise UsageError(
                    f"input {name!r} is {array.dtype.name}, the model takes {wanted.name}",
                    hint=f"convert it with .astype({wanted.name!r})",
                )
        return given


def open_session(path: Path, target: Target) -> OpenVinoSession:
    """Raises UsageError when there is no such file and StageError when OpenVINO refuses it."""
    compiled, steps = compile_model(path, target)
    return OpenVinoSession(compiled, path, steps)


def compile_model(
    path: Path, target: Target, *, profiled: bool = False
) -> tuple[openvino.CompiledModel, Preprocess | None]:
    """The compiled model and the preprocessing in it. profiled: requests then say which kernels they ran."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint="build the artifact again")
    core = openvino.Core()
    try:
        model = core.read_model(path)
        more = {"PERF_COUNT": True} if profiled else {}
        compiled = core.compile_model(model, "CPU", {**serving_config(target), **more})
    except Exception as error:
        raise translated(error, path) from error
    return compiled, steps_inside(path, model)


def steps_inside(path: Path, model: openvino.Model) -> Preprocess | None:
    """The preprocessing that a file says it holds."""
    if path.suffix == ".onnx":
        return read_steps(metadata(parse(path).model).get(KEY), path)
    return read_steps(model.get_rt_info(PREPROCESS).astype(str) if model.has_rt_info(PREPROCESS) else None, path)


def serving_config(target: Target) -> dict[str, Any]:
    """OpenVINO's own properties. Precision is pinned unless the recipe says otherwise, so that accuracy is comparable."""
    options = OpenVinoParams.model_validate_json(json.dumps(dict(target.options)))
    config: dict[str, Any] = {"PERFORMANCE_HINT": options.performance_hint.upper()}
    if options.streams is not None:
        config["NUM_STREAMS"] = options.streams
    elif options.performance_hint == "latency":
        config["NUM_STREAMS"] = 1
    if threads := target.threads or library_threads():
        config["INFERENCE_NUM_THREADS"] = threads
    if options.precision in _HINTS:
        config["INFERENCE_PRECISION_HINT"] = _HINTS[options.precision]
    if not options.integer_activations:
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if options.cache_dir is not None:
        config["CACHE_DIR"] = options.cache_dir
    return config
