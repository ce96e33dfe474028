"""What a dataset's columns hold, told from their declared types, and whether that is what a recipe takes them for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressctl.core.errors import UsageError

Features = Mapping[str, Any]
"""A split's, by column."""

_NUMBERS = ("int", "uint", "float", "bool")
_TEXTS = ("string", "large_string", "string_view")
_BYTES = ("binary", "large_binary")


def check_columns(features: Features, columns: Mapping[str, str], where: str) -> None:
    """columns: by column, what it is taken for: numbers, text, image or label. Raises UsageError for one that is missing or holds something else."""
    for column, use in columns.items():
        if column not in features:
            raise UsageError(
                f"{where}: there is no column {column!r}", hint=f"it has {', '.join(map(str, list(features)[:20]))}"
            )
        kind = kind_of(features[column])
        if kind not in _FITTING[use]:
            raise UsageError(
                f"{where}: the column {column!r} holds {kind}, and is taken for {use}", hint=_HINTS.get(kind)
            )


_FITTING = {
    "numbers": ("numbers", "classes"),
    "text": ("text", "words"),
    "images": ("images",),
    "a label": ("numbers", "classes", "text", "words"),
}
_HINTS = {
    "text": "texts stand under tokenize: {tokenizer: FOLDER, texts: [COLUMN]}",
    "words": "texts stand under tokenize: {tokenizer: FOLDER, texts: [COLUMN]}",
    "images": "a column of images stands under image",
    "numbers": "columns of numbers stand under inputs",
    "classes": "columns of numbers stand under inputs",
}


def kind_of(feature: Any) -> str:
    """numbers, classes, text or words (lists of either included), images, or the name of another type."""
    inner, depth = _innermost(feature)
    kind, dtype = type(inner).__name__, str(getattr(inner, "dtype", ""))
    if kind == "ClassLabel":
        return "classes"
    if kind == "Image" and depth == 0:
        return "images"
    if isinstance(inner, Mapping):
        return "images" if depth == 0 and "bytes" in inner else "fields in fields"
    if (kind == "Value" or kind.startswith("Array")) and dtype.startswith(_NUMBERS):
        return "numbers"
    if kind == "Value" and dtype in _TEXTS and depth < 2:
        return "words" if depth else "text"
    if kind == "Value" and dtype in _BYTES and depth == 0:
        return "images"
    return f"{'lists of ' * depth}{dtype if kind == 'Value' else kind}"


def class_names_of(feature: Any) -> tuple[str, ...] | None:
    """Those of a column of classes, or of lists of them; None for another."""
    inner, _ = _innermost(feature)
    return tuple(map(str, inner.names)) if type(inner).__name__ == "ClassLabel" else None


def is_text(feature: Any) -> bool:
    return kind_of(feature) in ("text", "words")


def _innermost(feature: Any) -> tuple[Any, int]:
    """What lists hold, and how many are around it."""
    depth = 0
    while not isinstance(feature, Mapping) and hasattr(feature, "feature"):
        feature, depth = feature.feature, depth + 1
    return feature, depth
