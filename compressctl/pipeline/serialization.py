"""A model as files, for the stage cache: ONNX or safetensors, JSON beside it, nothing that executes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from compressctl.core.author_code import author_code, author_factories
from compressctl.core.model import Factory, Form, Model, OnnxModel, Signature, StageRecord, TensorSpec, TorchModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.regular_files import read_regular
from compressctl.core.technique import TechniqueSpec, techniques
from compressctl.recipe.schema import Recipe

if TYPE_CHECKING:
    from torch import nn


class UntrustedError(Exception):
    """Files of a model name code of somebody else."""


class NotStorableError(Exception):
    """The model cannot be rebuilt from files; the step runs again next time."""


def write_model(model: Model, folder: Path, source: Model | None, base: Path = Path()) -> None:
    """Write a model into a folder. source: what the recipe loads. base: the recipe's folder.

    A torch model must be rebuildable from the source's module, or from what model.factory makes.
    Raises NotStorableError for a torch model whose structure cannot be described.
    """
    facts: dict[str, Any] = {
        "form": model.form.value,
        "signature": asdict(model.signature),
        "history": [asdict(record) for record in model.history],
    }
    if isinstance(model, OnnxModel):
        from compressctl.graph.model_file import write_model as write_onnx

        write_onnx(model.body, folder)
        if model.quant is not None:
            _write_plan(model.quant, folder)
    else:
        original = source if model.factory is None else made_by(model.factory, base, model.signature)
        _write_torch(model, folder, original)
        facts |= {"sparse": list(model.sparse), "factory": None if model.factory is None else asdict(model.factory)}
    (folder / "model.json").write_text(json.dumps(facts, default=str))


def read_model(folder: Path, load_source: Callable[[], Model], recipe: Recipe) -> Model:
    """The model that write_model wrote. load_source: loads the recipe's model, for a torch form to fill.

    Raises UntrustedError where the files name code that the recipe does not: they came from elsewhere.
    """
    facts = json.loads(read_regular(folder / "model.json"))
    signature, history = _signature(facts["signature"]), tuple(StageRecord(**record) for record in facts["history"])
    for record in history:
        _check_pinned(record, recipe)
    if facts["form"] == Form.ONNX:
        from compressctl.graph.model_file import read_model as read_onnx

        quant = _read_plan(folder) if (folder / "plan.json").exists() else None
        return OnnxModel(read_onnx(folder / "model.onnx"), signature, quant, history)
    factory = _named(Factory(**facts["factory"]), recipe) if facts["factory"] else None
    network = _read_torch(folder, load_source() if factory is None else made_by(factory, recipe.base, signature))
    return TorchModel(network, signature, history, tuple(facts["sparse"]), factory)


def _named(factory: Factory, recipe: Recipe) -> Factory:
    """The same factory, which the recipe names with the same arguments."""
    named = [pair for section in _sections(recipe) for pair in author_factories(section)]
    if not any(factory.name == name and _as_json(factory.args) == _as_json(args) for name, args in named):
        raise UntrustedError(f"it names {factory.name}, which the recipe does not")
    return factory


def _check_pinned(record: StageRecord, recipe: Recipe) -> None:
    """What a stage chose is written out as a recipe, which somebody may run."""
    if record.pinned is None:
        return
    spec: TechniqueSpec = techniques.get(record.pinned["use"])
    given = {key: value for key, value in record.pinned.items() if key in spec.params.model_fields}
    known = {value for section in _sections(recipe) for _, value in author_code(section, "")}
    for _, value in author_code(spec.params.model_validate_json(json.dumps(given)), ""):
        if value not in known:
            raise UntrustedError(f"it names {value}, which the recipe does not")


def _sections(recipe: Recipe) -> list[BaseModel]:
    return [recipe.model.params, *(stage.params for stage in recipe.stages)]


def _as_json(args: Mapping[str, Any]) -> str:
    return json.dumps(args, sort_keys=True, default=str)


def made_by(factory: Factory, base: Path, signature: Signature) -> TorchModel:
    """The factory's network with whatever weights it begins with: what descriptions of its structure refer to."""
    from compressctl.sources.forward import called_in_order
    from compressctl.sources.python_code import call_factory

    network = called_in_order(call_factory(factory.name, factory.args, base), signature.inputs)
    return TorchModel(network.eval(), signature)


def _write_torch(model: TorchModel, folder: Path, source: Model | None) -> None:
    from compressctl.sources.structure import NotDescribableError, write_network

    if not isinstance(source, TorchModel):
        raise NotStorableError("the recipe's model is no torch network to describe it by")
    try:
        write_network(model.body, source.body, folder)
    except NotDescribableError as reason:
        raise NotStorableError(str(reason)) from reason


def _read_torch(folder: Path, source: Model) -> nn.Module:
    from compressctl.sources.structure import read_network

    return read_network(source.body, folder / "model.safetensors", folder / "structure.json")


def _write_plan(plan: QuantPlan, folder: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {
        "float_nodes": dict(plan.float_nodes),
        "dynamic": sorted(plan.dynamic),
        "weights_alone": sorted(plan.weights_alone),
    }
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
    described = json.loads(read_regular(folder / "plan.json"))
    import ml_dtypes  # noqa: F401  numpy knows integers of fewer than 8 bits from it

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
        tensors("activations"),
        tensors("weights"),
        described["float_nodes"],
        frozenset(described["dynamic"]),
        frozenset(described.get("weights_alone", ())),
    )


def _signature(facts: dict[str, Any]) -> Signature:
    def specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)

    return Signature(specs(facts["inputs"]), specs(facts["outputs"]))
