"""What all starter recipes are written with: lines of YAML, and texts as it reads them back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_WORDS = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


@dataclass(frozen=True)
class Starter:
    """text: the recipe. unsure: what was guessed and should be looked at before a figure is believed."""

    text: str
    unsure: tuple[str, ...] = ()


def head(what: str, name: str, task: str) -> list[str]:
    tasks = {
        "custom": "# no labels: every output is held against the original's",
        "classification": "# labels are classes; others: regression, language-model, embedding, custom",
        "language-model": "# the next token of running text; judged by perplexity",
        "embedding": "# vectors; pairs of texts are judged by how their similarities rank",
    }
    return [
        f"# A starter recipe for {remark(what)}, as `compressctl init` writes it. `compressctl validate` checks it,",
        "# `compressctl plan --check` tries one batch, `compressctl apply` runs it.",
        "recipe: compressctl/v1",
        f"name: {scalar(_NO_NAME.sub('-', name).strip('-.')[:100] or 'model')}",
        f"task: {task}   {tasks[task]}",
        "",
    ]


def target(sizes: Mapping[str, int]) -> list[str]:
    shapes = f", shapes: {{{', '.join(f'{scalar(name)}: {size}' for name, size in sizes.items())}}}" if sizes else ""
    return [
        f"target: {{backend: onnxruntime, threads: 1{shapes}}}   # openvino, tensorrt: `compressctl list`",
        "",
    ]


def relative(path: Path, base: Path) -> str:
    """From the recipe's folder where one leads to the other, else in full."""
    try:
        relative = Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()
    except ValueError:  # on another drive
        return path.resolve().as_posix()
    return path.resolve().as_posix() if relative.startswith("../../..") else relative


def scalar(text: str) -> str:
    """As YAML reads it back; in quotes where it would not be the same text without them."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    escaped = {'"': '\\"', "\\": "\\\\"}
    return (
        '"'
        + "".join(escaped.get(char) or (char if char.isprintable() else f"\\U{ord(char):08X}") for char in text)
        + '"'
    )


def remark(text: str) -> str:
    """For a comment, which ends with its line."""
    return "".join(char if char.isprintable() else "?" for char in text)
