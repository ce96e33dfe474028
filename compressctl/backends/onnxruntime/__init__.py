"""ONNX Runtime on the processor: builds the artifact, opens it for serving, and says how it really runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.backends.specs import ONNXRUNTIME
from compressctl.core.backend import Artifact, Availability, ExecutedNode, Session, StoredWeights
from compressctl.core.errors import MissingDependencyError
from compressctl.core.machine import installed_version, nvidia_gpu
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target

if TYPE_CHECKING:
    import onnx

    from compressctl.backends.dialects.weight_only import Form

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
"""Packages that bring the module `onnxruntime`; each runs graphs on the processor in the same way."""


class OnnxRuntime:
    """The Backend. Its code is imported when it is asked to work, so that probing costs nothing."""

    def probe(self) -> Availability:
        installed, gpu = installed_version(*_DISTRIBUTIONS), nvidia_gpu()
        is_gpu_build = installed_version("onnxruntime-gpu") is not None
        devices = ("cpu", "cuda") if is_gpu_build and gpu else ("cpu",)
        missing = []
        if gpu is None:
            missing.append("CUDA: there is no NVIDIA GPU here, or no driver for it")
        if not is_gpu_build:
            missing.append("CUDA: pip uninstall -y onnxruntime && pip install onnxruntime-gpu")
        note = "runs INT8 Q/DQ, float, and weights of 2, 4 and 8 bits"
        return Availability(
            installed is not None, installed, devices if installed else (), ONNXRUNTIME.install, note, tuple(missing)
        )

    def build(self, model: OnnxModel, target: Target, folder: Path) -> Artifact:
        """Write `model.onnx` into folder, beside its weights when they are too large for one file.

        How products with quantized weights alone are written is measured here. See choose.py.
        """
        _require()
        from compressctl.backends.dialects.experts import note as experts_note
        from compressctl.backends.onnx_file import check_written, save_onnx, to_onnx
        from compressctl.backends.onnxruntime.choose import choose_forms
        from compressctl.backends.preprocess import as_served
        from compressctl.backends.releases import note
        from compressctl.backends.storage import as_stored
        from compressctl.graph.opset import opset_of
        from compressctl.graph.short_names import with_short_names

        forms, notes = choose_forms(model, target)
        proto, stored = as_stored(to_onnx(model, target, forms), target)
        if target.options.get("names") == "short":
            check_written(proto)  # while what it complains of has names that somebody knows
            proto = with_short_names(proto)
        proto, called = as_served(proto, model.signature, target)
        served = (*note(model, proto, target), *experts_note(proto), *_libraries(proto))
        files = save_onnx(proto, folder)
        said = (*notes, *stored, *called, *served)
        return Artifact("onnxruntime", files[0], files, said, opset=opset_of(proto), decided=_decided(forms, target))

    def open(self, artifact: Artifact, target: Target) -> Session:
        """A session as for serving, on target.threads threads. See session.py."""
        _require()
        from compressctl.backends.onnxruntime.session import open_session

        return open_session(artifact.path, target)

    def explain(
        self, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> Sequence[ExecutedNode]:
        """Every node of ONNX Runtime's own optimized graph, with its precision. See explain.py."""
        _require()
        from compressctl.backends.onnxruntime.explain import explain

        return explain(artifact.path, target, inputs)

    def weights(self, artifact: Artifact) -> Sequence[StoredWeights]:
        """Read from the file itself. See graph/stored_weights.py."""
        from compressctl.graph.stored_weights import stored_weights

        return stored_weights(artifact.path)


BACKEND = OnnxRuntime()


def _decided(forms: Mapping[str, Form], target: Target) -> dict[str, Any]:
    """The form of each product by its node, unless the recipe asks for one of all."""
    asked = target.options.get("weight_form", "measured")
    is_measured = asked == "measured" or isinstance(asked, Mapping)
    return {"weight_form": {node: str(form) for node, form in sorted(forms.items())}} if forms and is_measured else {}


def _libraries(proto: onnx.ModelProto) -> tuple[str, ...]:
    """What whoever serves the file must load, and the nodes that are computed there, as they came."""
    from compressctl.core.custom_ops import known, name_of
    from compressctl.graph.custom_nodes import custom_nodes, operators

    nodes = custom_nodes(proto)
    if not nodes:
        return ()
    names = ", ".join(map(name_of, known()))
    words = f"{operators(nodes)} ({', '.join(node.name or node.output[0] for node in nodes[:4])}{', ...' if len(nodes) > 4 else ''})"
    return (
        f"serve it with {names}, by SessionOptions.register_custom_ops_library: {words}, left as in the model, runs there",
    )


def _require() -> None:
    if installed_version(*_DISTRIBUTIONS) is None:
        raise MissingDependencyError("the onnxruntime backend", ONNXRUNTIME.package, ONNXRUNTIME.install)
