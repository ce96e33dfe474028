"""Where in a transformer tokens go, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.nearest import nearest
from compressctl.sources.modules.fewer_tokens import FewerTokens
from compressctl.techniques.dynamic._blocks import (
    Blocks,
    is_causal,
    is_read_off_first,
    mask_of_tokens,
    transformer_blocks,
)
from compressctl.techniques.prune.heads import heads_in

Schedule = tuple[float, ...]
"""By block, the share of its tokens that it passes on."""


@dataclass(frozen=True)
class Transformer:
    """How tokens go in one network. method: prune or merge. attended: by class or by all. first: whether its outputs are read off its first token alone. mask: the place of a mask
    of tokens among its inputs, -1 without."""

    blocks: Blocks
    method: str
    attended: str
    first: bool
    mask: int

    @classmethod
    def of(cls, model: TorchModel, method: str, attended: str = "auto") -> Transformer:
        """model: whose attention is in parts (`split`). Raises NothingToCompressError for a network without blocks of tokens, UsageError for a causal one."""
        blocks = transformer_blocks(model)
        if is_causal(model):
            raise UsageError(
                "the network is causal: which tokens stay would depend on later ones, of which earlier ones may not know",
                hint="fewer tokens are for classifiers and encoders; prune.layers and quantize.weights serve language models",
            )
        first = is_read_off_first(model, blocks)
        by = ("class" if first else "all") if attended == "auto" else attended
        return cls(blocks, method, by, first, mask_of_tokens(model.signature))

    def around(self, network: nn.Module, schedule: Schedule) -> FewerTokens:
        """Around this network, not a copy, from the first block on behind which tokens go. network: of the structure that this was made of, or a narrower one."""
        start = next((place for place, share in enumerate(schedule) if share < 1), len(schedule) - 1)
        names = self.blocks.names[start:]
        return FewerTokens.around(
            network,
            blocks=names,
            keep=[round(share, 4) for share in schedule[start:]],
            queries=self.blocks.queries[start:],
            keys=self.blocks.keys[start:],
            heads=[heads_in(network.get_submodule(name)) or 1 for name in names],
            method=self.method,
            attended=self.attended,
            keeps_first=self.first or self.attended == "class",
            restores=not self.first,
            mask=self.mask,
        )


def schedule_of(blocks: Blocks, at: str | tuple[str, ...], keep: float | Sequence[float]) -> Schedule:
    """keep: one share for all places, or one for each. Raises UsageError for other numbers of them and for blocks that the network does not have."""
    places = places_in(blocks, at)
    shares = [keep] * len(places) if isinstance(keep, float | int) else list(keep)
    if len(shares) != len(places):
        raise UsageError(
            f"keep has {len(shares)} shares, and there are {len(places)} places: behind {', '.join(blocks.names[place] for place in places)}"
        )
    found = [1.0] * len(blocks.names)
    for place, share in zip(places, shares, strict=True):
        found[place] = float(share)
    return tuple(found)


def places_in(blocks: Blocks, at: str | tuple[str, ...]) -> list[int]:
    """Numbers of the blocks behind which tokens go: every, spread (a quarter, a half and three quarters of the way), or by name. Behind the last block there is nothing to save."""
    count = len(blocks.names)
    if at == "every":
        return list(range(count - 1))
    if at == "spread":
        return sorted({min(max(round(count * quarter / 4) - 1, 0), count - 2) for quarter in (1, 2, 3)})
    for name in at:
        if name not in blocks.names[:-1]:
            near = nearest(name, blocks.names[:-1])
            raise UsageError(
                f"at: {name} is no block behind which tokens can go",
                hint=f"{f'did you mean {near}? ' if near else ''}the blocks are {', '.join(blocks.names[:-1])}",
            )
    return [blocks.names.index(name) for name in at]
