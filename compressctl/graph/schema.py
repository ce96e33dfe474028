"""What ONNX itself says about operators, asked instead of listed: the types that inputs and outputs may have in a model's opset."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import onnx

from compressctl.graph.index import all_nodes

Variables = tuple[str, ...]
"""By position: the type itself, as in "tensor(float)", or the name of a type that several positions share, as in "T"."""


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Version by domain, "" for the standard operators."""
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


class Schema:
    """One operator in one opset. is_deterministic: it gives the same for the same inputs, and runs no bodies."""

    def __init__(self, schema: onnx.defs.OpSchema) -> None:
        self.is_deterministic = schema.node_determinism == onnx.defs.OpSchema.NodeDeterminism.Deterministic  # type: ignore[attr-defined]
        self._inputs: Variables = tuple(part.type_str for part in schema.inputs)
        self._outputs: Variables = tuple(part.type_str for part in schema.outputs)
        self.defaults: Mapping[str, bytes] = {
            name: part.default_value.SerializeToString()
            for name, part in schema.attributes.items()
            if part.default_value.name
        }
        self._allowed: Mapping[str, frozenset[str]] = {
            part.type_param_str: frozenset(part.allowed_type_strs) for part in schema.type_constraints
        }

    def of_input(self, position: int) -> str:
        return self._inputs[min(position, len(self._inputs) - 1)]

    def of_output(self, position: int) -> str:
        return self._outputs[min(position, len(self._outputs) - 1)]

    def allows(self, variable: str, kind: int) -> bool:
        """Whether what such a variable stands for may be tensors of a type."""
        name = f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})"
        return name in self._allowed.get(variable, {variable})


def schema_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Schema | None:
    """None for operators that ONNX does not define in that opset."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return _schema(node.op_type, domain, opsets.get(domain, 0))


@functools.cache
def _schema(op: str, domain: str, version: int) -> Schema | None:
    try:
        return Schema(onnx.defs.get_schema(op, version, domain))
    except onnx.defs.SchemaError:
        return None


def without_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed, without attributes that say what an operator does anyway: older opsets may not have them."""
    opsets = opsets_of(model)
    for node in all_nodes(model.graph):
        schema = schema_of(node, opsets)
        defaults = {} if schema is None else schema.defaults
        kept = [entry for entry in node.attribute if entry.SerializeToString() != defaults.get(entry.name)]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    return model
