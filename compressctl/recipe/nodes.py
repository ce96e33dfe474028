"""A recipe before it is typed: values that know where they were written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from compressctl.core.errors import Origin
from compressctl.core.secrets import without_secrets

Scalar = str | int | float | bool | None
Step = str | int

MAX_DEPTH = 50


@dataclass(frozen=True)
class Node:
    """One value. value: a scalar, a list of nodes or a dict of nodes by key.

    origin: where the value starts. key: where its key stands, for entries of a mapping. via: the variable's value that
    was put here. raw: the text behind a value that came without YAML's quotes (a command line, the environment), so that
    a field that takes text can have it unread. reference: the same text with what the environment gave as `${env:NAME}`.
    """

    value: Scalar | list[Node] | dict[str, Node]
    origin: Origin
    key: Origin | None = None
    via: Origin | None = None
    raw: str | None = None
    reference: str | None = None

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of a mapping, none for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list, none for anything else."""
        return self.value if isinstance(self.value, list) else []

    def with_value(self, value: Scalar | list[Node] | dict[str, Node]) -> Node:
        return replace(self, value=value)

    def without(self, *keys: str) -> Node:
        """The same mapping with fewer keys."""
        return self.with_value({key: node for key, node in self.entries.items() if key not in keys})

    def only(self, *keys: str) -> Node:
        return self.with_value({key: node for key, node in self.entries.items() if key in keys})

    def child(self, step: Step) -> Node | None:
        if isinstance(step, str):
            return self.entries.get(step)
        return self.items[step] if 0 <= step < len(self.items) else None


def plain(node: Node) -> Any:
    """The same as dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def join(path: str, *steps: Step) -> str:
    """A path as messages write it: `stages[1].rank`."""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else (f".{step}" if path else step)
    return path


def split(path: str) -> list[Step]:
    """The steps of a path that `join` wrote."""
    return [int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", path)]


def find(node: Node, steps: Sequence[Step]) -> Node | None:
    """The node at the end of the steps, None where the way breaks off."""
    for step in steps:
        child = node.child(step)
        if child is None:
            return None
        node = child
    return node


def put(node: Node, steps: Sequence[Step], value: Node) -> Node:
    """The same tree with another value at the end of steps that lead somewhere."""
    if not steps:
        return value
    child = node.child(steps[0])
    assert child is not None
    below = put(child, steps[1:], value)
    if isinstance(steps[0], int):
        return node.with_value([*node.items[: steps[0]], below, *node.items[steps[0] + 1 :]])
    return node.with_value({**node.entries, steps[0]: below})


def stage_id(stage: Node) -> object:
    """What other recipes and `--set` call a stage by."""
    named = stage.child("id") or stage.child("use")
    return named.value if named and not isinstance(named.value, dict | list) else None


def shown(value: Any) -> str:
    """A value as a message quotes it, never long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'the text "{short(value)}"' if value else "empty text"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return short(repr(value))


def short(text: str, limit: int = 40) -> str:
    """Text of others, in one line."""
    text = without_secrets(text)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
