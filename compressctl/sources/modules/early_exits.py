"""A classifier that answers early where it is sure: heads on the way, each with a confidence above which its answer stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

NEVER = 2.0
"""A threshold that no confidence reaches."""


class Select(nn.Module):
    """By sample: early where `decided`, late elsewhere. decided: (n, 1, ...), of the rank of both."""

    def forward(self, decided: Tensor, early: Tensor, late: Tensor) -> Tensor:
        return torch.where(decided, early, late)

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {}


class PooledHead(nn.Module):
    """Scores of features: their mean and their largest over all positions, then one linear layer.

    axis: of the features' channels, 1 of maps (n, channels, ...), -1 of tokens (n, ..., channels). Source: Kaya et al. 2019, Shallow-Deep Networks,
    section 4, which mixes both ways of pooling.
    """

    def __init__(self, features: int, classes: int, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(2 * features, classes)

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {"features": self.linear.in_features // 2, "classes": self.linear.out_features, "axis": self.axis}

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: (n, tokens), 1 where a token counts."""
        axis = self.axis % features.ndim
        positions = [place for place in range(1, features.ndim) if place != axis]
        if not positions:
            pooled = features, features
        elif mask is None:
            pooled = features.mean(positions), _largest(features, positions)
        else:
            counts = mask.to(features.dtype).unsqueeze(-1)
            total = (features * counts).sum(1) / counts.sum(1).clamp(min=1)
            pooled = total, (features + (counts - 1) * _FAR).amax(1)
        scores: Tensor = self.linear(torch.cat(pooled, -1))
        return scores


class ConvHead(nn.Module):
    """Scores of maps (n, features, height, width): two convolutions, the first with a stride, then as PooledHead.

    What is near the input has not seen enough of it for its pooled features to tell classes apart. Source: Teerapittayanon et al. 2016, BranchyNet, section III, whose branches hold convolutions.
    """

    def __init__(self, features: int, classes: int, width: int = 32, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        kernel = max(3, stride + 1 + stride % 2)
        self.first = nn.Conv2d(features, width, kernel, stride, kernel // 2, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.pooled = PooledHead(width, classes)

    @property
    def linear(self) -> nn.Linear:
        return self.pooled.linear

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {
            "features": self.first.in_channels,
            "classes": self.linear.out_features,
            "width": self.first.out_channels,
            "stride": self.stride,
        }

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        features = functional.relu(self.first_norm(self.first(features)))
        features = functional.relu(self.second_norm(self.second(features)))
        scores: Tensor = self.pooled(features)
        return scores


def _largest(features: Tensor, positions: list[int]) -> Tensor:
    """As pooling where maps have a fixed size: runtimes have better kernels for it, with integers too."""
    if positions == [2, 3] and all(isinstance(size, int) for size in features.shape[2:]):
        return functional.max_pool2d(features, (features.shape[2], features.shape[3])).flatten(1)
    return features.amax(positions)


_FAR = 1e4
"""Below any feature."""


class EarlyExits(nn.Module):
    """A network of one output (n, classes), with heads behind some of its modules.

    places: the modules, in the order in which they run. features, axes: of each one's output. strides: of heads with convolutions, 0 for one that only pools. width: of those convolutions. confidence: softmax, the largest probability; sigmoid, that
    of the least sure of independent scores. probabilities: whether the network's output is probabilities, as the heads' then is. mask: the place among the inputs of a
    mask of tokens, -1 without.

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
        self.network: nn.Module = nn.Identity()
        self.heads = nn.ModuleList(
            ConvHead(count, classes, width, stride) if stride else PooledHead(count, classes, axis)
            for count, axis, stride in zip(features, axes, self.strides, strict=True)
        )
        self.select_by_input = nn.ModuleList(Select() for _ in places)
        self.register_buffer("thresholds", torch.full((len(self.places),), NEVER))
        self.thresholds: Tensor

    @classmethod
    def around(cls, network: nn.Module, **arguments: Any) -> Self:
        made = cls(**arguments)
        made.network = network
        made.train(network.training)
        return made

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

    def forward(self, *inputs: Any) -> Any:
        given, scores = self.every(*inputs)
        output = final = _tensor_of(given)
        if self.training:
            chosen = torch.randint(2 * len(scores), (len(final), 1), device=final.device)
            for place, score in enumerate(scores):
                output = torch.where(chosen == place, self._as_output(score).to(final.dtype), output)
            return _like(given, output)
        for place in reversed(range(len(self.places))):
            decided = self.sureness(scores[place]) > self.thresholds[place]
            early = self._as_output(scores[place])
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
        sure = scores.sigmoid()
        return torch.maximum(sure, 1 - sure).amin(-1, keepdim=True)

    def _as_output(self, scores: Tensor) -> Tensor:
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
