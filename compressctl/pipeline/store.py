"""A model as files, for the stage cache: ONNX or safetensors, JSON beside it, nothing that executes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from compressctl.core.model import Form, Model, Signature, StageRecord, TensorSpec
from compressctl.core.quant import QuantPlan, TensorQuant

_LARGEST_SINGLE_FILE = 1_500_000_000


class NotStorableError(Exception):
    """The model cannot be rebuilt from files; the step runs again next time."""


def write_model(model: Model, folder: Path, source: Model | None) -> None:
    """Write a model into a folder. source: what the recipe loads, whose module a torch model must be rebuildable into.

    Raises NotStorableError for a torch model whose parameters are not the source's in name and shape.
    """
    if model.form is Form.ONNX:
        _write_onnx(model, folder)
    else:
        _write_torch(model, folder, source)
    facts = {
        "form": model.form.value,
        "signature": asdict(model.signature),
        "history": [asdict(record) for record in model.history],
        "sparse": list(model.sparse),
    }
    (folder / "model.json").write_text(json.dumps(facts, default=str))
    if model.quant is not None:
        _write_plan(model.quant, folder)


def read_model(folder: Path, load_source: Callable[[], Model]) -> Model:
    """The model that write_model wrote. load_source: loads the recipe's model, for a torch form to fill."""
    facts = json.loads((folder / "model.json").read_text())
    form = Form(facts["form"])
    body = _read_onnx(folder) if form is Form.ONNX else _read_torch(folder, load_source())
    quant = _read_plan(folder) if (folder / "plan.json").exists() else None
    history = tuple(StageRecord(**record) for record in facts["history"])
    return Model(form, body, _signature(facts["signature"]), quant, history, tuple(facts["sparse"]))


def _write_onnx(model: Model, folder: Path) -> None:
    import onnx

    large = model.body.ByteSize() > _LARGEST_SINGLE_FILE
    onnx.save(model.body, folder / "model.onnx", save_as_external_data=large, location="model.onnx.data")


def _read_onnx(folder: Path) -> Any:
    import onnx

    return onnx.load(folder / "model.onnx")


def _write_torch(model: Model, folder: Path, source: Model | None) -> None:
    from safetensors.torch import save_file as save_torch

    state = {name: tensor.contiguous().clone() for name, tensor in model.body.state_dict().items()}
    known = source.body.state_dict() if source is not None and source.form is Form.TORCH else {}
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in known.items()}:
        raise NotStorableError("its parameters are not those of the recipe's model")
    save_torch(state, folder / "model.safetensors")


def _read_torch(folder: Path, source: Model) -> Any:
    from safetensors.torch import load_file as load_torch

    source.body.load_state_dict(load_torch(folder / "model.safetensors"))
    return source.body


def _write_plan(plan: QuantPlan, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {"float_nodes": dict(plan.float_nodes), "dynamic": sorted(plan.dynamic)}
    for kind, tensors in (("activations", plan.activations), ("weights", plan.weights)):
        described[kind] = {}
        for name, quant in tensors.items():
            number = len(arrays) // 2
            arrays[f"{number}.scale"] = np.ascontiguousarray(quant.scale)
            arrays[f"{number}.zero_point"] = np.ascontiguousarray(quant.zero_point, np.int32)
            rest = {key: value for key, value in quant.__dict__.items() if key not in ("scale", "zero_point")}
            # Types of fewer than 8 bits are none of safetensors', so that the type is kept beside the numbers.
            rest["point_dtype"] = np.asarray(quant.zero_point).dtype.name
            described[kind][name] = {"number": number, "shape": list(np.shape(quant.scale)), **rest}
    save_file(arrays, folder / "plan.safetensors")
    (folder / "plan.json").write_text(json.dumps(described))


def _read_plan(folder: Path) -> QuantPlan:
    described = json.loads((folder / "plan.json").read_text())
    arrays = load_file(folder / "plan.safetensors")

    def tensors(kind: str) -> dict[str, TensorQuant]:
        found = {}
        for name, entry in described[kind].items():
            number, shape = entry.pop("number"), entry.pop("shape")
            point = arrays[f"{number}.zero_point"].astype(entry.pop("point_dtype"))
            quant = TensorQuant(scale=arrays[f"{number}.scale"], zero_point=point, **entry)
            found[name] = replace(quant, scale=quant.scale.reshape(shape), zero_point=point.reshape(shape))
        return found

    return QuantPlan(
        tensors("activations"), tensors("weights"), described["float_nodes"], frozenset(described["dynamic"])
    )


def _signature(facts: dict[str, Any]) -> Signature:
    def specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in entries)

    return Signature(specs(facts["inputs"]), specs(facts["outputs"]))
