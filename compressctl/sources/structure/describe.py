"""From two networks to the description of how one differs from the other."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.sources.structure import allowed
from compressctl.sources.structure.plain import NotPlainError, encode, is_plain

VERSION = 1
INTERNAL = frozenset(
    {*vars(nn.Module()), "_flat_weights", "_flat_weight_refs", "_is_hf_initialized", "_weight_conversions"}
)
"""Attributes that torch keeps about a module, an RNN about its own parameters, and transformers about how a file was loaded."""

_CANDIDATES = 64
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotDescribableError(Exception):
    """The network holds something that no description can say; str(error) names it."""


def describe(network: nn.Module, original: nn.Module) -> dict[str, Any]:
    """What must be done to a copy of `original` for it to have the structure of `network`, ready for JSON.

    The values of weights are not part of it. {"version": 1} alone when the structures are equal. Raises
    NotDescribableError for what is neither the original's nor an allowed class with plain arguments: hooks, attributes
    that hold functions, foreign classes.
    """
    changes = _Describer(original).root(network)
    described: dict[str, Any] = {"version": VERSION}
    if changes:
        described["changes"] = changes
    tied = _tied(network)
    if tied != _tied(original):
        described["tied"] = tied
    frozen, before = _frozen(network), _frozen(original)
    if frozen != before:
        described["frozen"] = sorted(frozen)
    return described


class _Describer:
    """Remembers which modules were met, so that one that stands at two places is described once."""

    def __init__(self, original: nn.Module) -> None:
        self._original = original
        self._by_class: dict[str, list[tuple[str, nn.Module]]] = {}
        for path, module in original.named_modules():
            self._by_class.setdefault(_class(module), []).append((path, module))
        self._met: dict[int, str] = {}
        self._likes: dict[int, str] = {}
        self._copies: list[nn.Module] = []  # kept alive, or their ids would be given away again
        self._fragile: list[str] = []
        self._replaces = False

    def root(self, network: nn.Module) -> dict[str, Any]:
        if _class(network) != _class(self._original):
            changes = self._other(network, "")
        else:
            changes = self._edits(network, self._original, "")
        if self._replaces and self._fragile:
            raise NotDescribableError(f"{self._fragile[0]} holds modules or tensors outside torch's own bookkeeping")
        return changes

    def _edits(self, module: nn.Module, like: nn.Module, path: str) -> dict[str, Any]:
        """What turns `like` into `module`, which is of the same class; empty when nothing does."""
        self._met[id(module)], self._likes[id(like)] = path, path
        for kind in _HOOKS:
            if len(getattr(module, kind)) > len(getattr(like, kind)):
                raise NotDescribableError(f"{path or 'the network'} has a hook, which is code")
        edits: dict[str, Any] = {
            "attributes": self._attributes(module, like, path),
            "tensors": _tensors(module, like),
            "children": self._children(module, like, path),
        }
        if list(module._modules) != list(like._modules):
            self._replaces = True
            edits["order"] = list(module._modules)
        return {name: edit for name, edit in edits.items() if edit or name == "order"}

    def _attributes(self, module: nn.Module, like: nn.Module, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in vars(module).items():
            if name in INTERNAL:
                continue
            before = vars(like).get(name, _Absent)
            place = f"{path or 'the network'}.{name}"
            if is_plain(value):
                if before is _Absent or (is_plain(before) and not _same(encode(value), encode(before))):
                    found[name] = encode(value)
                elif not is_plain(before):
                    raise NotDescribableError(f"{place} was a {type(before).__name__} and is a plain value now")
            elif before is _Absent:
                raise NotDescribableError(f"{place} holds a {type(value).__name__}")
            else:
                found |= self._object(name, value, before, place)
        gone = [name for name in vars(like) if name not in vars(module) and name not in INTERNAL]
        if gone:
            raise NotDescribableError(f"{path or 'the network'} has lost its attribute {gone[0]}")
        return found

    def _object(self, name: str, value: Any, before: Any, place: str) -> dict[str, Any]:
        """Plain fields of an object (a configuration) that differ; nothing for what is the same."""
        if type(value) is not type(before) and _class(value) != _class(before):
            raise NotDescribableError(f"{place} was a {type(before).__name__} and is a {type(value).__name__}")
        if isinstance(value, Tensor):
            if not (value.shape == before.shape and torch.equal(value, before)):
                raise NotDescribableError(f"{place} is a tensor that is neither parameter nor buffer")
            return {}
        if isinstance(value, list | tuple | dict | set):
            if _holds_modules(value):
                self._fragile.append(place)
            elif not _equal(value, before):
                raise NotDescribableError(f"{place} differs and is no plain value")
            return {}
        if callable(value) or not hasattr(value, "__dict__"):
            if not _equal(value, before):
                raise NotDescribableError(f"{place} differs and is a {type(value).__name__}")
            return {}
        found = {}
        for key, part in vars(value).items():
            old = vars(before).get(key, _Absent)
            if is_plain(part) and is_plain(old) and not _same(encode(part), encode(old)):
                found[f"{name}.{key}"] = encode(part)
        return found

    def _children(self, module: nn.Module, like: nn.Module, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, child in module._modules.items():
            place = f"{path}.{name}" if path else name
            before = like._modules.get(name)
            if child is None:
                if before is not None or name not in like._modules:
                    found[name] = None
                continue
            entry = self._child(child, before, place)
            if entry or name not in like._modules:
                found[name] = entry
        return found

    def _child(self, child: nn.Module, before: nn.Module | None, path: str) -> dict[str, Any]:
        met = self._met.get(id(child))
        if met is not None:
            if before is not None and self._likes.get(id(before)) == met:
                return {}  # the original has one module at both places too, which is edited once
            self._replaces = True
            return {"same": met}
        if before is not None and _class(child) == _class(before) and id(before) not in self._likes:
            return self._edits(child, before, path)
        self._replaces = True
        return self._other(child, path)

    def _other(self, module: nn.Module, path: str) -> dict[str, Any]:
        """A module that stands where none of its class stood: an allowed class, or one from elsewhere in the original."""
        name = allowed.name_of(module)
        if name is not None:
            return self._made(module, name, path)
        candidates = self._by_class.get(_class(module), [])[:_CANDIDATES]
        if not candidates:
            raise NotDescribableError(
                f"{path or 'the network'} is a {type(module).__name__}, which is neither in the original network nor a class "
                f"that descriptions know"
            )
        source, like = min(candidates, key=lambda found: len(json.dumps(self._tried(module, found[1], path))))
        self._copies.append(copy.deepcopy(like))  # as rebuilding does: it shares nothing with the rest
        return {"keep": source, **self._edits(module, self._copies[-1], path)}

    def _tried(self, module: nn.Module, like: nn.Module, path: str) -> Any:
        """The edits for one candidate, without remembering what was met on the way."""
        before = dict(self._met), dict(self._likes), list(self._fragile)
        try:
            return self._edits(module, like, path)
        except NotDescribableError as reason:
            return {"impossible": str(reason) * 1000}
        finally:
            self._met, self._likes, self._fragile = before

    def _made(self, module: nn.Module, name: str, path: str) -> dict[str, Any]:
        given = allowed.arguments(module)
        try:
            encoded = {key: encode(value) for key, value in given.items()}
        except NotPlainError as reason:
            raise NotDescribableError(f"{path} ({name}) was made with {reason}") from reason
        kind = allowed.class_of(name)
        assert kind is not None
        with torch.device("meta"):
            self._copies.append(kind(**given))
        like = self._copies[-1]
        return {"class": name, "arguments": encoded, **self._edits(module, like, path)}


class _Absent:
    """Stands for an attribute that is not there."""


def _class(value: Any) -> str:
    """Two imports of one file make two classes of one name."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _tensors(module: nn.Module, like: nn.Module) -> dict[str, Any]:
    """Parameters and buffers of another shape, type or presence."""
    found: dict[str, Any] = {}
    for kind in ("parameter", "buffer"):
        own: Mapping[str, Tensor | None] = getattr(module, f"_{kind}s")
        before: Mapping[str, Tensor | None] = getattr(like, f"_{kind}s")
        for name in [*own, *(name for name in before if name not in own)]:
            value, old = own.get(name), before.get(name)
            if name not in own:
                found.setdefault(name, {"kind": "removed"})
            elif value is None:
                if old is not None or name not in before:
                    found[name] = {"kind": kind, "shape": None}
            elif old is None or old.shape != value.shape or old.dtype != value.dtype:
                found[name] = {
                    "kind": kind,
                    "shape": list(value.shape),
                    "dtype": str(value.dtype).removeprefix("torch."),
                    **({"persistent": False} if name in module._non_persistent_buffers_set else {}),
                }
    return found


def _tied(network: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def _frozen(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON, so that NaN equals itself and True is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _equal(one: Any, other: Any) -> bool:
    if one is other or (getattr(one, "__qualname__", one) == getattr(other, "__qualname__", other) and callable(one)):
        return True
    try:
        return bool(one == other)
    except Exception:
        return False


def _holds_modules(value: Any) -> bool:
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    return any(
        isinstance(part, nn.Module | Tensor) or (isinstance(part, list | tuple | dict) and _holds_modules(part))
        for part in parts
    )
