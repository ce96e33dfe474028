"""From a network and a description to the network that was described, trusting neither sizes nor names."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.sources.structure import allowed
from compressctl.sources.structure.describe import INTERNAL, VERSION
from compressctl.sources.structure.plain import NotPlainError, decode, is_plain

_LARGEST_NUMBER = 2**31
_MOST_BYTES = 2**36
_NEW_BYTES = 2**26
_MOST_MODULES = 100_000
_DEEPEST = 64
_TYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_EDITS = {"attributes", "tensors", "children", "order"}


class StructureError(UsageError):
    """A description that cannot be followed, or that asks for what none may ask for."""


def rebuild(original: nn.Module, description: Any, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of `original`, changed as `describe` said. weights: all values; without them what is new is 0.

    Memory is taken for what `weights` really holds, not for what the description says. The network comes in eval mode.
    Raises StructureError for anything else than what `describe` writes for this original, and where weights do not fit.
    """
    _expect(isinstance(description, dict), "the description is not a JSON object")
    _expect(description.get("version") == VERSION, f"the description's version is not {VERSION}")
    unknown = set(description) - {"version", "changes", "tied", "frozen"}
    _expect(not unknown, f"the description has an unknown part {_some(unknown)}")
    network = _Builder(original).root(description.get("changes") or {})
    _expect(_places(network, {}) < _MOST_MODULES, "the description makes too many modules")
    if "tied" in description:
        _tie(network, description["tied"])
    _allocate(network, weights, _bytes(original))
    if "frozen" in description:
        _freeze(network, description["frozen"])
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            # torch's recurrent layers keep a list of their own parameters.
            module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]
    return network.eval()


class _Builder:
    def __init__(self, original: nn.Module) -> None:
        self._pristine = dict(original.named_modules(remove_duplicate=False))
        self._network = copy.deepcopy(original)
        self._built: dict[str, nn.Module] = {}
        self._count = 0

    def root(self, changes: Any) -> nn.Module:
        if isinstance(changes, dict) and ("class" in changes or "keep" in changes):
            return self._entry(changes, None, "")
        return self._edited(self._network, changes, "", 0)

    def _entry(self, entry: Any, before: nn.Module | None, path: str, depth: int = 0) -> nn.Module:
        _expect(isinstance(entry, dict), f"{path}: a module is not described by an object")
        if "same" in entry:
            _expect(list(entry) == ["same"] and isinstance(entry["same"], str), f"{path}: `same` stands alone")
            same = entry["same"]
            _expect(same in self._built, f"{path}: there is no module {_quoted(same)} before it")
            _expect(same != "" and not f"{path}.".startswith(f"{same}."), f"{path}: a module cannot be part of itself")
            return self._built[same]
        edits = {name: value for name, value in entry.items() if name not in ("class", "arguments", "keep")}
        if "class" in entry:
            return self._edited(self._made(entry, path), edits, path, depth)
        if "keep" in entry:
            source = entry["keep"]
            _expect(
                isinstance(source, str) and source in self._pristine,
                f"{path}: the original has no module {_quoted(source)}",
            )
            return self._edited(copy.deepcopy(self._pristine[source]), edits, path, depth)
        _expect(before is not None, f"{path} is not in the original, and its description says no class")
        assert before is not None
        return self._edited(before, edits, path, depth)

    def _made(self, entry: Mapping[str, Any], path: str) -> nn.Module:
        name, given = entry["class"], entry.get("arguments", {})
        kind = allowed.class_of(name) if isinstance(name, str) else None
        _expect(kind is not None, f"{path}: {_quoted(name)} is not a class that a description may ask for")
        _expect(isinstance(given, dict), f"{path}: arguments are not an object")
        assert kind is not None
        unknown = set(given) - set(allowed.accepted(kind))
        _expect(not unknown, f"{path}: {name} takes no argument {_some(unknown)}")
        arguments = {key: _plain(value, f"{path}: {name}'s {key}") for key, value in given.items()}
        try:
            with torch.device("meta"):
                return kind(**arguments)
        except Exception as error:
            raise StructureError(f"{path}: {name} cannot be made: {error}", hint=_HINT) from error

    def _edited(self, module: nn.Module, edits: Any, path: str, depth: int) -> nn.Module:
        self._count += 1
        _expect(depth < _DEEPEST and self._count < _MOST_MODULES, f"{path}: the description has no end")
        _expect(isinstance(edits, dict), f"{path}: changes are not an object")
        unknown = set(edits) - _EDITS
        _expect(not unknown, f"{path or 'the network'}: there is no change called {_some(unknown)}")
        self._built.setdefault(path, module)
        for name, value in _object(edits, "attributes", path).items():
            _set_attribute(module, name, _plain(value, f"{path}.{name}"), path)
        for name, tensor in _object(edits, "tensors", path).items():
            _set_tensor(module, name, tensor, path)
        self._set_children(module, edits, path, depth)
        return module

    def _set_children(self, module: nn.Module, edits: Mapping[str, Any], path: str, depth: int) -> None:
        entries = _object(edits, "children", path)
        order = edits.get("order", list(module._modules))
        _expect(
            isinstance(order, list) and all(isinstance(name, str) for name in order) and len(set(order)) == len(order),
            f"{path}: order is not a list of names",
        )
        _expect(set(entries) <= set(order), f"{path}: {_some(set(entries) - set(order))} has no place in the order")
        before, after = dict(module._modules), dict[str, nn.Module | None]()
        for name in order:
            place = f"{path}.{name}" if path else name
            _expect(name in before or _is_new_name(module, name), f"{place} cannot be the name of a module")
            if name not in entries:
                _expect(name in before, f"{place} is not in the original, and nothing describes it")
                after[name] = before[name]
                self._remember(before[name], place)
            elif entries[name] is None:
                after[name] = None
            else:
                after[name] = self._entry(entries[name], before.get(name), place, depth + 1)
        module._modules.clear()
        module._modules.update(after)

    def _remember(self, module: nn.Module | None, path: str) -> None:
        """A module that stays as it is, so that `same` can name it or a part of it."""
        if module is not None:
            for below, part in module.named_modules():
                self._built.setdefault(".".join(filter(None, [path, below])), part)


def _places(module: nn.Module, known: dict[int, int]) -> int:
    """In how many places modules stand, counting what is shared each time, without walking through all of them."""
    if id(module) not in known:
        known[id(module)] = 1 + sum(_places(child, known) for child in module._modules.values() if child is not None)
    return known[id(module)]


def _set_attribute(module: nn.Module, name: str, value: Any, path: str) -> None:
    """A plain value in the place of a plain value, on the module or on an object that it holds; or a new one."""
    parts = name.split(".") if isinstance(name, str) else []
    place = f"{path or 'the network'}.{name}"
    is_named = 1 <= len(parts) <= 2 and all(part.isidentifier() and not part.startswith("__") for part in parts)
    _expect(is_named and parts[0] not in INTERNAL, f"{place} is no attribute that a description may set")
    held = vars(module)
    if len(parts) == 2:
        inner = held.get(parts[0])
        fields = getattr(inner, "__dict__", None)
        _expect(
            isinstance(fields, dict) and not isinstance(inner, type | nn.Module | Tensor) and not callable(inner),
            f"{place}: there is no object of that name",
        )
        assert isinstance(fields, dict)
        _expect(parts[1] in fields and is_plain(fields[parts[1]]), f"{place} is not a plain value in the original")
        fields[parts[1]] = value
        return
    if name in held:
        _expect(is_plain(held[name]), f"{place} is not a plain value in the original")
    else:
        _expect(not hasattr(module, name), f"{place} is not a plain value in the original")
    held[name] = value


def _set_tensor(module: nn.Module, name: str, entry: Any, path: str) -> None:
    place = f"{path}.{name}" if path else name
    _expect(isinstance(entry, dict), f"{place}: a tensor is not described by an object")
    known = module._parameters if name in module._parameters else module._buffers if name in module._buffers else None
    _expect(known is not None or _is_new_name(module, name), f"{place} cannot be the name of a tensor")
    kind, shape = entry.get("kind"), entry.get("shape")
    _expect(kind in ("parameter", "buffer", "removed"), f"{place}: {_quoted(kind)} is no kind of tensor")
    before = known.pop(name) if known is not None else None
    if kind == "removed":
        module._non_persistent_buffers_set.discard(name)
        return
    value = None if shape is None else _empty(shape, entry.get("dtype"), place)
    if kind == "buffer":
        module.register_buffer(name, value, persistent=entry.get("persistent", True) is not False)
        return
    is_trained = bool(value is not None and value.is_floating_point() and (before is None or before.requires_grad))
    module.register_parameter(name, None if value is None else nn.Parameter(value, requires_grad=is_trained))


def _empty(shape: Any, dtype: Any, place: str) -> Tensor:
    """On torch's meta device, which has shapes and no memory."""
    is_shape = isinstance(shape, list) and all(type(size) is int and 0 <= size < _LARGEST_NUMBER for size in shape)
    _expect(is_shape and len(shape) <= 16, f"{place}: {_quoted(shape)} is no shape")
    _expect(dtype in _TYPES, f"{place}: {_quoted(dtype)} is no element type")
    _expect(math.prod(shape) < _MOST_BYTES, f"{place}: a tensor of {math.prod(shape):.2g} elements is too large")
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def _tie(network: nn.Module, groups: Any) -> None:
    """Parameters that are one under several names: those of each group, and no others."""
    _expect(isinstance(groups, list), "tied parameters are not a list")
    places = {
        f"{path}.{name}" if path else name: (module, name)
        for path, module in network.named_modules(remove_duplicate=False)
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    _untie(places.values())
    for group in groups:
        _expect(isinstance(group, list) and all(isinstance(name, str) for name in group), "tied names are not a list")
        for name in group:
            _expect(name in places, f"there is no parameter {_quoted(name)} to tie")
            (first_module, first), (module, own) = places[group[0]], places[name]
            one, other = first_module._parameters[first], module._parameters[own]
            assert one is not None
            assert other is not None
            fits = one.shape == other.shape and one.dtype == other.dtype
            _expect(fits, f"{name} and {group[0]} cannot be tied: they differ in shape or type")
            module._parameters[own] = one


def _untie(places: Iterable[tuple[nn.Module, str]]) -> None:
    met: dict[int, tuple[int, str]] = {}
    for module, name in places:
        parameter = module._parameters[name]
        if met.setdefault(id(parameter), (id(module), name)) != (id(module), name):
            assert parameter is not None
            module._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def _bytes(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))


def _allocate(network: nn.Module, weights: Mapping[str, Tensor] | None, original_bytes: int) -> None:
    """Memory for what has none, and values for everything that `weights` names.

    Without weights nothing but the description says how much memory is taken, so that it is bounded by the original's.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}  # before and after; both kept alive, so that ids stay theirs
    names = set()
    left = _MOST_BYTES if weights is not None else max(_NEW_BYTES, 2 * original_bytes)
    for path, module in network.named_modules(remove_duplicate=False):
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is None:
                    continue
                place = f"{path}.{name}" if path else name
                names.add(place)
                if id(tensor) not in made:
                    left -= tensor.numel() * tensor.element_size() if tensor.is_meta else 0
                    _expect(left > 0, "the tensors that the description asks for are too large")
                    value = _valued(tensor, place, weights)
                    made[id(tensor)] = made[id(value)] = tensor, value
                held[name] = made[id(tensor)][1]
    unexpected = set(weights or ()) - names
    _expect(not unexpected, f"the weights hold {_some(unexpected)}, which the described network has not")


def _valued(tensor: Tensor, place: str, weights: Mapping[str, Tensor] | None) -> Tensor:
    given = weights.get(place) if weights is not None else None
    if given is None:
        _expect(weights is None or not tensor.is_meta, f"the weights lack {place}")
        return _like(tensor, torch.zeros(tensor.shape, dtype=tensor.dtype)) if tensor.is_meta else tensor
    fits = given.shape == tensor.shape and given.dtype == tensor.dtype
    _expect(fits, f"the weights hold {place} as {_shown(given)}, and the described network has {_shown(tensor)} there")
    return _like(tensor, given.detach().clone())


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _freeze(network: nn.Module, names: Any) -> None:
    _expect(isinstance(names, list) and all(isinstance(name, str) for name in names), "frozen names are not a list")
    parameters = dict(network.named_parameters())
    unknown = set(names) - set(parameters)
    _expect(not unknown, f"there is no parameter {_some(unknown)} to freeze")
    for name, parameter in parameters.items():
        if parameter.is_floating_point():
            parameter.requires_grad_(name not in names)


def _plain(stored: Any, place: str) -> Any:
    try:
        value = decode(stored)
    except NotPlainError as reason:
        raise StructureError(f"{place} is {reason}", hint=_HINT) from reason
    _expect(_is_small(value), f"{place} holds a number beyond {_LARGEST_NUMBER}")
    return value


def _is_small(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_small(each) for each in value)
    if isinstance(value, dict):
        return all(_is_small(each) for each in value.values())
    return not isinstance(value, int) or abs(value) <= _LARGEST_NUMBER


def _object(edits: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = edits.get(name, {})
    _expect(isinstance(found, dict), f"{path}: {name} is not an object")
    return found


def _is_new_name(module: nn.Module, name: str) -> bool:
    """Containers call their modules by numbers; all else are attributes, which must be free and of ordinary names."""
    if name.isdigit():
        return isinstance(module, nn.Sequential | nn.ModuleList)
    return name.isidentifier() and not name.startswith("__") and not hasattr(module, name)


_HINT = "the file must be one that compressctl wrote for this network"


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise StructureError(message, hint=_HINT)


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _some(names: set[Any]) -> str:
    return ", ".join(sorted(_quoted(name) for name in names)[:5])


def _shown(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
