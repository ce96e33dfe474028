"""A classifier or an encoder that answers early where it is sure: heads on the way, each with a confidence above which its answer stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.sources.modules.around import Around
from compressctl.sources.modules.exit_heads import ConvHead, PooledHead
from compressctl.sources.modules.select import Select

NEVER = 2.0
"""A threshold that no confidence reaches."""


class EarlyExits(Around):
    """A network of one output (n, classes), or (n, size) of an encoder, with heads behind some of its modules.

    places: the modules, in the order in which they run. features, axes: of each one's output. strides: of heads with convolutions, 0 for one that only pools. width: of those convolutions. confidence: softmax, the largest probability; sigmoid, that
    of the least sure of independent scores; learned, a further number of the head's that says which cosine to expect with the network's own vector. probabilities: whether the network's output is
    probabilities (of an encoder: vectors of length 1), as the heads' then is. mask: the place among the inputs of a mask of tokens, -1 without.

    In training mode half of the samples get what the network says, and the others what a head says that chance chooses, so that whatever is lowered teaches all of them. In eval mode
    each sample's output is that of the first head that is sure enough. Both sides are computed:
    an exported file computes what is needed (`graph/branches.py`).
    """

    def __init__(
        self,
        places: Sequence[str],
        features: Sequence[int],
        axes: Sequence[int],
        classes: int,
        confidence: str = "softmax",
        probabilities: bool = False,
        mask: int = -1,
        strides: Sequence[int] = (),
        width: int = 32,
    ) -> None:
        super().__init__()
        self.places = list(places)
        self.strides, self.width = list(strides) or [0] * len(self.places), width
        self.confidence, self.probabilities, self.mask, self.classes = confidence, probabilities, mask, classes
        numbers = classes + (confidence == "learned")
        self.heads = nn.ModuleList(
            ConvHead(count, numbers, width, stride) if stride else PooledHead(count, numbers, axis)
            for count, axis, stride in zip(features, axes, self.strides, strict=True)
        )
        self.select_by_input = nn.ModuleList(Select() for _ in places)
        self.register_buffer("thresholds", torch.full((len(self.places),), NEVER))
        self.thresholds: Tensor

    def constructor_arguments(self) -> Mapping[str, Any]:
        heads = [head for head in self.heads if isinstance(head, PooledHead | ConvHead)]
        return {
            "places": list(self.places),
            "features": [int(head.constructor_arguments()["features"]) for head in heads],
            "axes": [head.axis if isinstance(head, PooledHead) else 1 for head in heads],
            "strides": list(self.strides),
            "width": self.width,
            "classes": self.classes,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "mask": self.mask,
        }

    def only(self, kept: Sequence[bool]) -> EarlyExits:
        """The same without some of its exits: whether each is kept, in their order."""
        arguments = dict(self.constructor_arguments())
        for name in ("places", "features", "axes", "strides"):
            arguments[name] = [one for one, stays in zip(arguments[name], kept, strict=True) if stays]
        made = EarlyExits.around(self.network, **arguments)
        made.heads = nn.ModuleList(head for head, stays in zip(self.heads, kept, strict=True) if stays)
        with torch.no_grad():
            made.thresholds.copy_(self.thresholds[torch.tensor(list(kept))])
        return made.train(self.training)

    def forward(self, *inputs: Any) -> Any:
        given, scores = self.every(*inputs)
        output = final = _tensor_of(given)
        if self.training:
            chosen = torch.randint(2 * len(scores), (len(final), 1), device=final.device)
            for place, score in enumerate(scores):
                output = torch.where(chosen == place, self.as_output(score).to(final.dtype), output)
            return _like(given, output)
        for place in reversed(range(len(self.places))):
            decided = self.sureness(scores[place]) > self.thresholds[place]
            early = self.as_output(scores[place])
            output = self.select_by_input[place](decided, early.to(final.dtype), output)
        return _like(given, output)

    def every(self, *inputs: Any) -> tuple[Any, list[Tensor]]:
        """What the network returns, and each head's scores, before a Softmax or Sigmoid."""
        seen: dict[str, Tensor] = {}
        handles = [self.network.get_submodule(name).register_forward_hook(_into(seen, name)) for name in self.places]
        try:
            given = self.network(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        mask = inputs[self.mask] if self.mask >= 0 else None
        return given, [head(seen[name], mask) for name, head in zip(self.places, self.heads, strict=True)]

    def sureness(self, scores: Tensor) -> Tensor:
        """(n, classes) to (n, 1), between 0 and 1."""
        if self.confidence == "softmax":
            return scores.softmax(-1).amax(-1, keepdim=True)
        if self.confidence == "learned":
            return scores[..., -1:].sigmoid()
        sure = scores.sigmoid()
        return torch.maximum(sure, 1 - sure).amin(-1, keepdim=True)

    def as_output(self, scores: Tensor) -> Tensor:
        """A head's answer in the form of the network's."""
        if self.confidence == "learned":
            return functional.normalize(scores[..., :-1], dim=-1) if self.probabilities else scores[..., :-1]
        if not self.probabilities:
            return scores
        return scores.softmax(-1) if self.confidence == "softmax" else scores.sigmoid()


def _into(seen: dict[str, Tensor], name: str) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        seen[name] = _tensor_of(output)

    return keep


def _tensor_of(given: Any) -> Tensor:
    """The first tensor of what a module returned."""
    if isinstance(given, Tensor):
        return given
    parts = given.values() if isinstance(given, Mapping) else given
    return next(part for part in parts if isinstance(part, Tensor))


def _like(given: Any, output: Tensor) -> Any:
    """The output under the name that the network gives it."""
    if isinstance(given, Mapping):
        return {next(name for name, part in given.items() if isinstance(part, Tensor)): output}
    return (output,) if isinstance(given, list | tuple) else output
