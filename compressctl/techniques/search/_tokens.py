"""Tokens of a transformer as something that a subnetwork may have fewer of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from torch import nn

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import TorchModel
from compressctl.sources.modules.fewer_tokens import FewerTokens, count_kept
from compressctl.techniques.dynamic._schedules import Schedule, Transformer, places_in
from compressctl.techniques.prune.narrower import Channels

TOKENS = "tokens behind "
"""Before the block's name, in the name of a group."""

_SHARES = (60, 70, 80, 90)
"""Per cent of a block's tokens that the next one may get."""


class TokenPlaces:
    """Behind a quarter, a half and three quarters of the blocks. now: what the network stands in already, as an earlier search left it; more tokens may go there.

    Raises NothingToCompressError for a network without blocks of tokens, and for one whose tokens go already."""

    def __init__(self, model: TorchModel, method: Literal["prune", "merge"], now: FewerTokens | None = None) -> None:
        if any(isinstance(module, FewerTokens) for module in model.body.modules()):
            raise NothingToCompressError(
                "the network's later blocks see fewer tokens already", hint="leave out `tokens`, or the stage before"
            )
        self._transformer = Transformer.of(model, method)
        self._names = self._transformer.blocks.names
        kept = {} if now is None else dict(zip(now.blocks, now.keep, strict=True))
        self._now = [round(100 * kept.get(name, 1.0)) for name in self._names]
        self._places = places_in(self._transformer.blocks, "spread")

    def groups(self, blocks: Collection[str]) -> Iterator[Channels]:
        """Each place as a group of 100 tokens, or of as many as are left. blocks: those that can go, and the place with them."""
        for place in self._places:
            name, whole = TOKENS + self._names[place], self._now[place]
            block = next((block for block in self._inside(place) if block in blocks), None)
            if fewer := tuple(share for share in _SHARES if share < whole):
                yield Channels(name, (), whole, fewer, name, block)

    def _inside(self, place: int) -> list[str]:
        """The block itself and the modules around what tokens are compared by."""
        found = [self._names[place]]
        for projection in (self._transformer.blocks.queries[place], self._transformer.blocks.keys[place]):
            parts = projection.split(".")
            found += [".".join(parts[:count]) for count in range(1, len(parts))]
        return found

    def _schedule(self, kept: Mapping[str, int], gone: Collection[str]) -> Schedule:
        """Nothing goes behind a block that is gone, or that lacks what tokens are compared by."""
        shares = [kept.get(TOKENS + name, now) for name, now in zip(self._names, self._now, strict=True)]
        return tuple(
            1.0 if share == 100 or set(gone) & set(self._inside(place)) else share / 100
            for place, share in enumerate(shares)
        )

    def go(self, kept: Mapping[str, int], gone: Collection[str]) -> bool:
        """Whether any do."""
        return min(self._schedule(kept, gone)) < 1

    def seen(self, kept: Mapping[str, int], gone: Collection[str]) -> dict[str, float]:
        """By block, the share of all tokens that it computes."""
        whole = left = self._transformer.blocks.count
        found = {}
        for name, share in zip(self._names, self._schedule(kept, gone), strict=True):
            found[name] = left / whole
            left = count_kept(left, share) if share < 1 else left
        return found

    def around(self, network: nn.Module, kept: Mapping[str, int], gone: Collection[str]) -> nn.Module:
        return self._transformer.around(network, self._schedule(kept, gone))
