"""OpenVINO's errors in our words: what failed, in which node, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from compressctl.backends.node_names import first_of, node_name
from compressctl.core.errors import CompressctlError, StageError
from compressctl.core.failures import refused_in

_KNOWN = (
    (
        r"(?:No conversion rule found for operations|not supported.*?):\s*(?P<what>[\w.]+)",
        "its converter does not know the operator {what}{where}",
        "export the model with standard operators only, or for another backend",
    ),
    (
        r"ONNX node '<Node\((?P<op>\w+)\): (?P<what>[^>]+)>'.*friendly_name '[^']*':\s*\n(?P<why>.*?)\n\s*(?:Summary|\n|$)",
        "{op} node {node} is not valid there: {why}",
        "check the shapes and attributes that the model was exported with",
    ),
    (
        r"\[CPU\] (?P<op>\w+) node with name '(?P<what>[^']+)'.*?\n(?:\[cpu\]\w*:? ?)?(?P<why>[^\n]+)",
        "{op} node {node} failed: {why}",
        "check that the inputs have the shapes that the model was exported for, and that no text is longer than its table of positions (data.max_length, window)",
    ),
    (
        r"(?:While validating|Check .* failed).*?node '(?P<what>[^']+)'",
        "node {node} is not valid there",
        "check the model with onnx.checker and with the shapes that it was exported for",
    ),
    (
        r"Can't open file|Cannot open|could not open",
        "a file of the model is missing",
        "keep model.xml and model.bin in one folder",
    ),
    (
        r"model input \(shape=(?P<wanted>[^)]*)\) and the tensor \(shape=\((?P<given>[^)]*)\)",
        "an input has shape {given}, the model takes {wanted}",
        "give inputs of the shape that the model was exported for",
    ),
    (
        r"can't be set|incompatible (?:element type|with).*|shape .* is incompatible",
        "an input does not fit the model",
        "check the inputs' shapes and types",
    ),
)


def translated(error: Exception, path: Path) -> CompressctlError:
    """path: the file that OpenVINO was given; an ONNX file is looked into for the names of nodes."""
    if isinstance(error, CompressctlError):
        return error
    text = re.sub(r"(Exception from )?src/\S+:\d+:?", " ", str(error))
    said = f"OpenVINO cannot take {path.name}"
    refused = refused_in(said, RuntimeError(text))
    if refused is not None:
        return refused
    for pattern, message, hint in _KNOWN:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            facts = {name: " ".join(value.split()) for name, value in found.groupdict().items()}
            facts.update(_names(facts.get("what", ""), path))
            return StageError(f"{said}: {message.format(**facts)}", hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return StageError(f"{said}: {lines[-1] if lines else type(error).__name__}")


def _names(what: str, path: Path) -> dict[str, str]:
    """node: what as the file names it; the converter names nodes by an output. where: the first node of an operator, which
    it names by domain, type and opset."""
    first = first_of(re.sub(r"-\d+$", "", what).rpartition(".")[2], path)
    return {"node": repr(node_name(what, path)), "where": f", node {first!r}" if first else ""}
