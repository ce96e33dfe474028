"""A network whose forward takes arguments by name, dictionaries or tuples, called as everything here calls networks: by tensors in order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError
from compressctl.core.model import TensorSpec
from compressctl.graph.torch_outputs import leaves

if TYPE_CHECKING:
    from torch import Tensor, nn

Way = tuple[str, ...]
"""An argument of forward, and keys or places inside it."""


def called_in_order(
    network: nn.Module,
    inputs: Sequence[TensorSpec],
    fixed: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
) -> nn.Module:
    """The same object, which keeps its modules and their names; only its forward takes tensors in the order of `inputs`.

    Inputs go to their `argument`; without one to the argument of their name, where all of them have such a one and none that forward needs is left out;
    else by place. fixed: other arguments, the same in every call. outputs: names of those that are kept, with what they hold; default: all.
    Raises UsageError for arguments that forward does not take.
    """
    if fixed or any(spec.argument is not None for spec in inputs):
        _check_is_method(network)
    ways = _ways(network, inputs, fixed or {})
    if not fixed and outputs is None and (ways is None or _is_in_order(network, ways)):
        return network
    _check_is_method(network)
    own = type(network)

    class Called(own):  # type: ignore[misc, valid-type]
        def forward(self, *tensors: Tensor) -> Any:
            placed = tensors if ways is None else ()
            named = {} if ways is None else _nested(dict(zip(ways, tensors, strict=True)))
            given = super().forward(*placed, **named, **(fixed or {}))
            return given if outputs is None else _kept(given, outputs)

    Called.__name__ = Called.__qualname__ = own.__name__
    network.__class__ = Called
    return network


def _check_is_method(network: nn.Module) -> None:
    if "forward" in vars(network) or not isinstance(network.forward, MethodType):
        raise UsageError(
            f"forward of the {type(network).__name__} is no method of its class, so that its arguments cannot be given by name",
            hint="wrap the network in a module of your own; or give inputs in the order of its forward, without argument, forward_args and outputs",
        )


def parameters_of(network: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Of forward; none where it does not say, as one that TorchScript made."""
    try:
        return inspect.signature(network.forward).parameters
    except (TypeError, ValueError):
        return {}


def _ways(network: nn.Module, inputs: Sequence[TensorSpec], fixed: Mapping[str, Any]) -> list[Way] | None:
    """Where each input goes; None: by place."""
    parameters = parameters_of(network)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    known = [one.name for one in parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    has_arguments = any(spec.argument is not None for spec in inputs)
    ways = [tuple((spec.argument or spec.name).split(".") if spec.argument else [spec.name]) for spec in inputs]
    for name in fixed:
        if name not in known and not takes_any:
            raise _no_argument(network, name, "model.forward_args", known)
    if has_arguments:
        for spec, way in zip(inputs, ways, strict=True):
            if way[0] not in known and not takes_any:
                raise _no_argument(network, way[0], f"the input {spec.name}", known)
        return ways
    if not parameters:
        return None
    names = {way[0] for way in ways}
    needed = {
        one.name for one in parameters.values() if one.default is one.empty and one.kind.name.startswith(("POS", "KEY"))
    }
    takes_places = any(one.kind is one.VAR_POSITIONAL for one in parameters.values())
    is_named = names <= set(known) or (takes_any and not takes_places)
    return ways if is_named and needed <= names | set(fixed) else None


def _no_argument(network: nn.Module, name: str, place: str, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"{place} goes to {name}, and forward of the {type(network).__name__} takes no such argument",
        hint=f"it takes {', '.join(known) or 'none by name'}",
    )


def _is_in_order(network: nn.Module, ways: Sequence[Way]) -> bool:
    """Whether tensors by place reach the same arguments."""
    parameters = parameters_of(network).values()
    placed = [(one.name,) for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    return list(ways) == placed[: len(ways)]


def _nested(given: Mapping[Way, Any]) -> dict[str, Any]:
    """{("batch", "image"): x} as {"batch": {"image": x}}; a tuple where all keys are the places 0, 1, ..."""
    inside: dict[str, dict[Way, Any]] = {}
    for way, value in given.items():
        inside.setdefault(way[0], {})[way[1:]] = value
    return {name: parts[()] if () in parts else _as_tuple(_nested(parts)) for name, parts in inside.items()}


def _as_tuple(named: dict[str, Any]) -> Any:
    places = [str(place) for place in range(len(named))]
    return tuple(named[place] for place in places) if set(places) == set(named) else named


def _kept(given: Any, names: Sequence[str]) -> dict[str, Any]:
    found = dict(leaves(given))
    kept = {
        name: [each for each in found if each == name or each.startswith(f"{name}.")] for name in dict.fromkeys(names)
    }
    missing = [name for name, own in kept.items() if not own]
    if missing:
        raise UsageError(
            f"the network gives no {', '.join(missing)}", hint=f"model.outputs may name {', '.join(found)}"
        )
    return {each: found[each] for own in kept.values() for each in own}
