"""Strict YAML: text to nodes with positions. What YAML lets pass and people do not expect is refused, all at once.

Refused: duplicate keys, keys that are not text, tags, anchors and aliases (`vars` does their work without the traps of
alias bombs), merge keys, several documents, numbers that are not finite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from compressctl.core.errors import Origin, Problem, RecipeError, first_line
from compressctl.recipe import scalars
from compressctl.recipe.nodes import MAX_DEPTH, Node, join, shown

MAX_BYTES, _MAX_VALUES = 1 << 20, 50_000
LINE_BREAK = "\r\n|[\n\r\x85\u2028\u2029]"
"""Where YAML 1.1 parsers count lines."""
_EXCERPT = 160
_SUFFIXES = (".yaml", ".yml", ".json")

# libyaml's parser is many times faster than the Python one and comes with nearly every PyYAML.
_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Source:
    """A text and the name under which messages speak of it. is_quoted: whether they show lines of it."""

    name: str
    text: str
    is_quoted: bool = True

    @cached_property
    def lines(self) -> list[str]:
        return re.split(LINE_BREAK, self.text)

    def origin(self, line: int, column: int) -> Origin:
        """line and column from 0, as marks count them."""
        text = self.lines[line] if line < len(self.lines) else ""
        if column > _EXCERPT or not self.is_quoted:
            return Origin(self.name, line + 1, column + 1)
        text = text[:_EXCERPT]
        if not text.isprintable():
            text = "".join(char if char.isprintable() else " " for char in text)
        return Origin(self.name, line + 1, column + 1, text)


def decode(name: str, content: bytes) -> Source:
    """UTF-8, with or without a byte-order mark. Raises RecipeError."""
    if len(content) > MAX_BYTES:
        raise RecipeError([Problem(f"a recipe has at most {MAX_BYTES // 1024} KiB", origin=Origin(name))])
    # `extends` may name any file, and what is no recipe is nobody's business: keys, the environment of a process.
    is_quoted = Path(name).suffix.lower() in _SUFFIXES
    try:
        return Source(name, content.decode("utf-8-sig"), is_quoted)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        source = Source(name, before, is_quoted)
        origin = source.origin(len(source.lines) - 1, len(source.lines[-1]))
        message = f"not UTF-8 text: the byte 0x{content[error.start]:02x} does not belong here"
        raise RecipeError([Problem(message, hint="save the file as UTF-8", origin=origin)]) from None


def parse(source: Source) -> Node | None:
    """The one document of the text, None when there is nothing in it. Raises RecipeError with everything found."""
    problems: list[Problem] = []
    try:
        root = _root(source, problems)
    except yaml.YAMLError as error:
        raise RecipeError([*problems, _syntax(error, source)]) from None
    except (ValueError, OverflowError) as error:
        # PyYAML's own conversions: characters beyond Unicode, versions of thousands of digits.
        origin = _escaped(source)
        raise RecipeError([*problems, Problem(f"not valid YAML: {first_line(error)}", origin=origin)]) from None
    if problems:
        raise RecipeError(problems)
    return root


@dataclass
class _Open:
    """A list or mapping whose end has not come yet. keyed: its next value's key, and where that stands."""

    origin: Origin
    path: str
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    keyed: tuple[str | None, Origin] | None = None
    is_key: bool = False

    def node(self) -> Node:
        return Node(self.entries if self.is_mapping else self.items, self.origin)


def _root(source: Source, problems: list[Problem]) -> Node | None:
    """The Python parser reads again what libyaml's refuses: it tells better where and why."""
    try:
        return _compose(source, yaml.parse(source.text, Loader=_FastLoader), problems)
    except (yaml.YAMLError, ValueError, OverflowError):
        problems.clear()
        return _compose(source, yaml.parse(source.text, Loader=yaml.SafeLoader), problems)


def _compose(source: Source, events: Iterator[Any], problems: list[Problem]) -> Node | None:
    """Follows the parser's events with a stack of its own, so that depth is a limit and not a crash."""
    root: Node | None = None
    documents = 0
    stack: list[_Open] = []
    for count, event in enumerate(events):
        kind = type(event).__name__
        if count > _MAX_VALUES:
            message = f"a recipe has at most {_MAX_VALUES:,} keys and values"
            problems.append(Problem(message, origin=_origin(event, source)))
            return root
        if kind == "DocumentStartEvent":
            documents += 1
            if documents > 1:
                origin = _origin(event, source)
                problems.append(Problem("a second document; a recipe is one", hint="remove this `---`", origin=origin))
                return root
        elif kind == "ScalarEvent":
            _refuse_marks(event, stack, source, problems)
            if _waits_for_key(stack):
                _take_key(event, stack[-1], source, problems)
            else:
                root = _place(_scalar(event, stack, source, problems), stack, root)
        elif kind == "AliasEvent":
            origin = _origin(event, source)
            problems.append(Problem("aliases (`*name`) are not supported", _path(stack), _ALIAS_HINT, origin))
            if _waits_for_key(stack):
                stack[-1].keyed = (None, origin)
            else:
                root = _place(Node(None, origin), stack, root)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            _refuse_marks(event, stack, source, problems)
            if len(stack) >= MAX_DEPTH:
                problems.append(Problem(f"nested more than {MAX_DEPTH} deep", origin=_origin(event, source)))
                return root
            is_key = _waits_for_key(stack)
            if is_key:
                problems.append(Problem("keys are text", _path(stack), origin=_origin(event, source)))
            opened = _Open(_origin(event, source), _path(stack), kind == "MappingStartEvent", is_key=is_key)
            stack.append(opened)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            closed = stack.pop()
            if closed.is_key:
                stack[-1].keyed = (None, closed.origin)
            else:
                root = _place(closed.node(), stack, root)
    return root


def _waits_for_key(stack: list[_Open]) -> bool:
    return bool(stack) and stack[-1].is_mapping and stack[-1].keyed is None


def _path(stack: list[_Open]) -> str:
    """Where in the recipe the next value stands."""
    if not stack:
        return ""
    top = stack[-1]
    if not top.is_mapping:
        return join(top.path, len(top.items))
    key = top.keyed[0] if top.keyed else None
    return join(top.path, key) if key is not None else top.path


def _take_key(event: Any, mapping: _Open, source: Source, problems: list[Problem]) -> None:
    origin = _origin(event, source)
    key: Any = event.value
    try:
        key = scalars.resolve(event.value) if event.implicit[0] else event.value
    except ValueError:
        key = 0.0
    if not isinstance(key, str):
        hint = f'write "{event.value}" if it is meant' if event.value else "write a key before the colon"
        what, hint = (shown(key), hint) if source.is_quoted else ("none", "put it in quotes")
        problems.append(Problem(f"keys are text, this one is {what}", mapping.path, hint, origin))
        mapping.keyed = (None, origin)
    elif key == "<<" and event.implicit[0]:
        problems.append(Problem("merge keys (`<<`) are not supported", mapping.path, _ALIAS_HINT, origin))
        mapping.keyed = (None, origin)
    elif key in mapping.entries:
        first = mapping.entries[key].key or mapping.entries[key].origin
        message = f"this key is here twice, first in line {first.line}"
        problems.append(Problem(message, join(mapping.path, key), "keep one of them", origin))
        mapping.keyed = (None, origin)
    else:
        mapping.keyed = (key, origin)


def _scalar(event: Any, stack: list[_Open], source: Source, problems: list[Problem]) -> Node:
    origin = _origin(event, source)
    if not event.implicit[0]:
        if any("\ud800" <= char <= "\udfff" for char in event.value):
            problems.append(Problem("half of a surrogate pair is not a character", _path(stack), origin=origin))
        return Node(event.value, origin)
    try:
        return Node(scalars.resolve(event.value), origin)
    except ValueError as error:
        problems.append(Problem(str(error), _path(stack), origin=origin))
        return Node(None, origin)


def _place(node: Node, stack: list[_Open], root: Node | None) -> Node | None:
    """Put a finished value into what is open around it; without that it is the root."""
    if not stack:
        return node
    top = stack[-1]
    if not top.is_mapping:
        top.items.append(node)
    elif top.keyed:
        key, origin = top.keyed
        if key is not None:
            top.entries[key] = Node(node.value, node.origin, origin)
        top.keyed = None
    return root


def _refuse_marks(event: Any, stack: list[_Open], source: Source, problems: list[Problem]) -> None:
    origin = _origin(event, source)
    if event.anchor is not None:
        problems.append(Problem("anchors (`&name`) are not supported", _path(stack), _ALIAS_HINT, origin))
    if event.tag is not None:
        hint = "write the value alone; quotes make it text"
        named = f" (`{event.tag}`)" if source.is_quoted else ""
        problems.append(Problem(f"tags are not supported{named}", _path(stack), hint, origin))


def _origin(event: Any, source: Source) -> Origin:
    return source.origin(event.start_mark.line, event.start_mark.column)


_ALIAS_HINT = "use `vars` and `${name}`, or `extends`"


def _syntax(error: yaml.YAMLError, source: Source) -> Problem:
    """A parser's complaint in plain words, with the place it noticed."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    origin = _unreadable(source) if mark is None else source.origin(mark.line, mark.column)
    known = ((message, hint) for part, message, hint in _COMPLAINTS if part in said)
    message, hint = next(known, (f"not valid YAML: {said}", None))
    if "${" in (origin.text or ""):
        hint = 'put quotes around the variable: "${name}"'
    return Problem(message, hint=hint, origin=origin)


def _escaped(source: Source) -> Origin:
    """The first escape or directive whose number is too large."""
    for number, line in enumerate(source.lines):
        found = re.search(r"\\U(?!000|0010)|^%YAML", line)
        if found:
            return source.origin(number, found.start())
    return Origin(source.name)


def _unreadable(source: Source) -> Origin:
    """The first character that YAML does not allow."""
    for number, line in enumerate(source.lines):
        for column, char in enumerate(line):
            if not char.isprintable() and char != "\t":
                return source.origin(number, column)
    return Origin(source.name)


_COMPLAINTS = (
    ("found character '\\t'", "a tab; YAML indents with spaces only", "replace the tab with spaces"),
    ("that cannot start any token", "this character cannot start a value", "put quotes around the value"),
    ("a tab character", "a tab; YAML indents with spaces only", "replace the tab with spaces"),
    (
        "mapping values are not allowed",
        "a colon that does not belong here",
        "check the indentation, or quote the value",
    ),
    (
        "expected chomping or indentation indicators",
        "YAML begins a block of text with `>` and `|`",
        "put quotes around the value",
    ),
    ("could not find expected ':'", "a key without a colon", "write `key: value`, with a space after the colon"),
    ("expected ',' or ']'", "a list that is not closed, or lacks a comma", "close it with `]`"),
    ("expected ',' or '}'", "a mapping that is not closed, or lacks a comma", "close it with `}`"),
    ("unexpected end of stream", "the text ends inside quotes", "close the quotes"),
    ("expected <block end>", "the indentation does not fit what is above", "align it with its neighbours"),
    ("did not find expected key", "the indentation does not fit what is above", "align it with its neighbours"),
    (
        "did not find expected '-' indicator",
        "the indentation does not fit the list above",
        "align it with the other `-`",
    ),
    ("block sequence entries are not allowed", "a list cannot start here", "put it on the next line, indented"),
    ("special characters are not allowed", "a control character", "remove it"),
    ("control characters are not allowed", "a control character", "remove it"),
    (
        "unknown escape character",
        "an unknown escape after a backslash",
        "write `\\\\` for a backslash, or use single quotes",
    ),
)
