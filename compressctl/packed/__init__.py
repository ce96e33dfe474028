"""Packed models: an ONNX file in a fraction of its bytes, for transport. Reading one needs numpy and nothing else.

    from compressctl import packed
    weights = packed.load("model.cctl")                # name -> numpy array
    packed.unpack("model.cctl", "model.onnx")          # the very bytes that were packed

docs/packed.md describes the format.
"""

from __future__ import annotations

import os
from pathlib import Path

from compressctl.packed.errors import PackedError
from compressctl.packed.read import MAX_BYTES, Array, PackedModel

__all__ = ["MAX_BYTES", "PackedError", "PackedModel", "load", "unpack"]


def load(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """All tensors by name. Types that numpy has not come as their bits (`PackedModel.ledger` names the type).

    Raises PackedError when the file is damaged, or would take more than max_bytes.
    """
    with PackedModel(path, max_bytes) as model:
        found: dict[str, Array] = {}
        for entry, values in model.tensors():
            found.setdefault(entry.name, values)
        return found


def unpack(path: str | os.PathLike[str], model: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> list[Path]:
    """Write the ONNX file that was packed, and its external data beside it. Returns the files written.

    Raises PackedError when the file is damaged, or would take more than max_bytes.
    """
    with PackedModel(path, max_bytes) as packed:
        return packed.write(Path(model))
