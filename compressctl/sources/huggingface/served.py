"""A network of transformers, called as everything here calls networks: arrays in the order of names go in, tensors by name come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Finish = Callable[["nn.Module", Mapping[str, "Tensor"], Any], Mapping[str, "Tensor"]]
"""What is kept of what the network gave: of the network itself, its inputs by name, and its output."""


def served(network: nn.Module, inputs: Sequence[str], finish: Finish) -> nn.Module:
    """The same object, which keeps its modules and their names; only its forward takes tensors in the order of `inputs`.

    A wrapper would stand before every layer's name, in patterns, exported nodes and saved weights.
    """
    own = type(network)

    class Served(own):  # type: ignore[misc, valid-type]
        def forward(self, *tensors: Tensor) -> Mapping[str, Tensor]:
            given = dict(zip(inputs, tensors, strict=True))
            return finish(self, given, super().forward(**given, return_dict=True))

    Served.__name__ = Served.__qualname__ = own.__name__
    network.__class__ = Served
    return network


def keeping(names: Sequence[str]) -> Finish:
    """The outputs of these names. Raises UsageError where one is not given."""

    def finish(network: nn.Module, given: Mapping[str, Tensor], output: Any) -> Mapping[str, Tensor]:
        missing = [name for name in names if output.get(name) is None]
        if missing:
            raise UsageError(
                f"the network gives no {', '.join(missing)}", hint=f"model.outputs may name {', '.join(output.keys())}"
            )
        return {name: output[name] for name in names}

    return finish
