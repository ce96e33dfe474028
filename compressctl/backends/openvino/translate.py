"""OpenVINO's errors in our words: what failed, in which node, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from compressctl.core.errors import CompressctlError, StageError

_KNOWN = (
    (
        r"(?:No conversion rule found for operations|not supported.*?):\s*(?P<what>[\w.]+)",
        "its converter does not know the operator {what}",
        "export the model with standard operators only",
    ),
    (
        r"(?:While validating|Check .* failed).*?node '(?P<what>[^']+)'",
        "node {what} is not valid there",
        "check the model with onnx.checker and with the shapes that it was exported for",
    ),
    (
        r"Can't open file|Cannot open|could not open",
        "a file of the model is missing",
        "keep model.xml and model.bin in one folder",
    ),
    (
        r"can't be set|incompatible (?:element type|with).*|shape .* is incompatible",
        "an input does not fit the model",
        "check the inputs' shapes and types",
    ),
)


def translated(error: Exception, path: Path) -> CompressctlError:
    if isinstance(error, CompressctlError):
        return error
    text = re.sub(r"(Exception from )?src/\S+:\d+:?", " ", str(error))
    for pattern, message, hint in _KNOWN:
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return StageError(f"OpenVINO cannot take {path.name}: {message.format(**found.groupdict())}", hint=hint)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return StageError(f"OpenVINO cannot take {path.name}: {lines[-1] if lines else type(error).__name__}")
