"""A transformer whose blocks see fewer tokens the further they are: the least attended are fused into one, or the most alike merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.sources.modules.around import Around

_FAR = 1e4
"""Beyond any score."""


class FewerTokens(Around):
    """A network of blocks one after the other, each of which takes and gives tokens (n, tokens, width) first.

    blocks: the names of all blocks from the first after which tokens go, in the order in which they run. keep: by block, the share of its tokens that the next one gets; 1 keeps
    all. method: prune, the least attended tokens become one, their mean (EViT, Liang et al. 2022, equation 3); merge, the most alike pairs become their mean
    (ToMe, Bolya et al. 2023, section 3.2). queries, keys: by block, the modules that project them, empty where it has none; then tokens are compared as they are. heads: by block.
    attended: by whom, class (the first token) or all. keeps_first: whether the first token always stays, on its own.
    mask: the place among the inputs of a mask (n, tokens), 1 where a token counts, -1 without.

    restores: whether behind the last block every token gets the state of the one that it became a part of, so that what reads them sees as many as before. How many stay depends on how many there are, not on their
    values: shapes are fixed where the input's are. traced_longer: than usual, so that no number of tokens that go is 0 or 1 while an open length is traced.
    """

    traced_longer = 48

    def __init__(
        self,
        blocks: Sequence[str],
        keep: Sequence[float],
        queries: Sequence[str],
        keys: Sequence[str],
        heads: Sequence[int],
        method: str = "prune",
        attended: str = "class",
        keeps_first: bool = True,
        mask: int = -1,
        restores: bool = True,
    ) -> None:
        super().__init__()
        self.blocks, self.keep = list(blocks), list(keep)
        self.queries, self.keys, self.heads = list(queries), list(keys), list(heads)
        self.method, self.attended, self.keeps_first, self.mask = method, attended, keeps_first, mask
        self.restores = restores

    def constructor_arguments(self) -> Mapping[str, Any]:
        names = ("blocks", "keep", "queries", "keys", "heads", "method", "attended", "keeps_first", "mask", "restores")
        return {name: getattr(self, name) for name in names}

    def forward(self, *inputs: Any) -> Any:
        run = _Run(self, inputs[self.mask] if self.mask >= 0 else None)
        with ExitStack() as hooks:
            for place, name in enumerate(self.blocks):
                block = self.network.get_submodule(name)
                hooks.enter_context(block.register_forward_pre_hook(run.before, with_kwargs=True))
                hooks.enter_context(block.register_forward_hook(partial(run.behind, place)))
                for kind, module in (("query", self.queries[place]), ("key", self.keys[place])):
                    if module and self.keep[place] < 1:
                        projection = self.network.get_submodule(module)
                        hooks.enter_context(projection.register_forward_hook(partial(run.note, kind)))
            return self.network(*inputs)


@dataclass
class _Run:
    """One call. weight: (n, tokens), how many tokens each one stands for. position: (n, tokens), which of the first tokens each one was, for masks; None while it is itself.
    part_of: (n, all tokens), the token that each has become a part of."""

    owner: FewerTokens
    mask: Tensor | None
    weight: Tensor | None = None
    position: Tensor | None = None
    part_of: Tensor | None = None
    projected: dict[str, Tensor] = field(default_factory=dict)

    def note(self, kind: str, _: nn.Module, __: Any, output: Tensor) -> None:
        """A projection's output; a fused one's holds queries, keys and values side by side."""
        self.projected[kind] = output

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Masks for the tokens that are left."""
        if self.position is None:
            return None
        first, *others = args if args else (None,)
        kept = tuple(map(self._of_kept, others))
        named = {name: value if name == "hidden_states" else self._of_kept(value) for name, value in kwargs.items()}
        return ((first, *kept) if args else (), named)

    def _of_kept(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._rows(part) if isinstance(part, Tensor) and part.ndim == 3 else part for part in value)
        if not isinstance(value, Tensor) or value.ndim not in (2, 4):
            return value
        found = self._columns(value)
        return (
            self._columns(found.transpose(-1, -2)).transpose(-1, -2)
            if value.ndim == 4 and value.shape[2] != 1
            else found
        )

    def _columns(self, value: Tensor) -> Tensor:
        """The last axis, of keys, for each sample's own tokens."""
        assert self.position is not None
        index = self.position
        if value.ndim == 4:
            index = index[:, None, None, :].expand(-1, value.shape[1], value.shape[2], -1)
            value = value.expand(index.shape[0], -1, -1, -1)
        return value.gather(-1, index)

    def _rows(self, value: Tensor) -> Tensor:
        """Tables (n, tokens, ...) of positions."""
        assert self.position is not None
        return rows(value.expand(self.position.shape[0], -1, -1), self.position)

    def behind(self, place: int, _: nn.Module, __: Any, output: Any) -> Any:
        """Fewer tokens, or behind the last block as many as there were."""
        tokens = output if isinstance(output, Tensor) else output[0]
        share = self.owner.keep[place]
        if share < 1:
            tokens = self._fewer(tokens, share, self.owner.heads[place])
            self.projected.clear()
        if self.owner.restores and place == len(self.owner.blocks) - 1 and self.part_of is not None:
            tokens = rows(tokens, self.part_of)
        return tokens if isinstance(output, Tensor) else (tokens, *output[1:])

    def _fewer(self, tokens: Tensor, share: float, heads: int) -> Tensor:
        count = tokens.shape[1]
        if self.weight is None:
            ones = torch.ones_like(tokens[..., 0])
            self.weight = ones if self.mask is None else ones * self.mask.to(tokens.dtype)
        kept = count_kept(count, share)
        step = _pruned if self.owner.method == "prune" else _merged
        scores = self._scores(tokens, heads) if self.owner.method == "prune" else self._alike(tokens, heads)
        made, weight, stays, part_of = step(tokens, self.weight, scores, kept, self.owner.keeps_first)
        self.weight = weight
        self.position = stays if self.position is None else self.position.gather(1, stays)
        self.part_of = part_of if self.part_of is None else part_of.gather(1, self.part_of)
        return made

    def _projections(self, heads: int) -> tuple[Tensor, Tensor] | None:
        """Queries and keys (n, heads, tokens, size)."""
        query, key = self.projected.get("query"), self.projected.get("key")
        if query is None or key is None:
            return None
        if query is key:
            query, key, _ = query.chunk(3, dim=-1)
        if query.shape[-1] != key.shape[-1]:  # several heads of queries share one of keys
            return None
        return _by_head(query, heads), _by_head(key, heads)

    def _scores(self, tokens: Tensor, heads: int) -> Tensor:
        """(n, tokens): how much attention each one gets, by the mean over heads."""
        found = self._projections(heads)
        assert self.weight is not None
        if found is None:
            asked, keys = tokens[:, None], tokens[:, None]
        else:
            asked, keys = found
        asked = asked[:, :, :1] if self.owner.attended == "class" else asked
        logits = asked @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
        is_none = (self.weight == 0).to(logits.dtype)
        attention = (logits - _FAR * is_none[:, None, None]).softmax(-1)
        if self.owner.attended == "all":  # what pads ask for does not count
            attention = attention * (1 - is_none)[:, None, :, None]
        attended: Tensor = attention.mean((1, 2)) - is_none
        return attended

    def _alike(self, tokens: Tensor, heads: int) -> Tensor:
        """(n, tokens, width): what tokens are compared by, of length 1."""
        found = self._projections(heads)
        compared = tokens if found is None else found[1].mean(1)
        return compared * torch.rsqrt((compared * compared).sum(-1, keepdim=True) + 1e-12)


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """(n, tokens, width) to (n, heads, tokens, size)."""
    samples, tokens, width = projected.shape
    return projected.reshape(samples, tokens, heads, width // heads).transpose(1, 2)


def count_kept(tokens: int, share: float) -> int:
    """How many of so many tokens stay, two at least where there are two; whole numbers all the way, since lengths may be open."""
    return tokens - ((tokens - 1) * round((1 - share) * 1000)) // 1000


def rows(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens: (n, t, width). index: (n, k) into t. As one lookup in all samples' rows, which runtimes copy row by row."""
    samples, count, width = tokens.shape
    start = torch.arange(samples, device=tokens.device)[:, None] * count
    found = tokens.reshape(samples * count, width).index_select(0, (index + start).reshape(-1))
    return found.reshape(samples, -1, width)


_Step = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tokens, their weights, which of the tokens before each one is, and which one each of those before became a part of."""


def _pruned(tokens: Tensor, weight: Tensor, scores: Tensor, kept: int, keeps_first: bool) -> _Step:
    """The `kept - 1` best scored tokens, and the mean of the others as the last."""
    if keeps_first:
        is_first = (torch.arange(tokens.shape[1], device=tokens.device) == 0).to(scores.dtype)
        scores = scores + _FAR * is_first
    order = scores.topk(tokens.shape[1], dim=1).indices
    stays, goes = order.narrow(1, 0, kept - 1), order.narrow(1, kept - 1, tokens.shape[1] - kept + 1)
    gone = rows(tokens, goes)
    gone_weight = weight.gather(1, goes)
    total = gone_weight.sum(1, keepdim=True)
    fused = (gone * gone_weight[..., None]).sum(1, keepdim=True) / total.clamp(min=1e-6)[..., None]
    made = torch.cat([rows(tokens, stays), fused], 1)
    slot = torch.arange(tokens.shape[1], device=tokens.device).clamp(max=kept - 1).expand_as(order)
    part_of = torch.zeros_like(order).scatter(1, order, slot)
    weights = torch.cat([weight.gather(1, stays), total], 1)
    return made, weights, order.narrow(1, 0, kept), part_of


def _merged(tokens: Tensor, weight: Tensor, compared: Tensor, kept: int, keeps_first: bool) -> _Step:
    """Of every second token the most alike to one of the others become parts of it."""
    count = tokens.shape[1]
    going = count - kept
    first, second = compared[:, ::2], compared[:, 1::2]
    likeness = first @ second.transpose(-1, -2)
    # Tokens that do not count go first, and none that does becomes a part of one that does not.
    is_none = (weight == 0).to(likeness.dtype)
    likeness = likeness + 4 * (is_none[:, ::2, None] - is_none[:, None, 1::2])
    best, partner = likeness.max(-1)
    if keeps_first:
        # Not a difference with a row of constants: OpenVINO 2026.4 takes its first number for all columns behind a maximum, with several samples in a call.
        best = torch.cat([best[:, :1] - _FAR, best[:, 1:]], 1)
    order = best.topk(best.shape[1], dim=1, largest=False).indices
    left = best.shape[1] - going
    stays, goes = order.narrow(1, 0, left), order.narrow(1, left, going)
    into = partner.gather(1, goes)
    own, own_weight = tokens[:, 1::2], weight[:, 1::2]
    is_into = (into[..., None] == torch.arange(own.shape[1], device=tokens.device)).to(tokens.dtype)
    given_weight = weight[:, ::2].gather(1, goes)
    weights = own_weight + (is_into * given_weight[..., None]).sum(1)
    given = rows(tokens[:, ::2], goes) * given_weight[..., None]
    mixed = (own * own_weight[..., None] + is_into.transpose(1, 2) @ given) / weights.clamp(min=1e-6)[..., None]
    mixed = torch.where((weights > 0)[..., None], mixed, own)
    made = torch.cat([rows(tokens[:, ::2], stays), mixed], 1)
    seconds = torch.arange(own.shape[1], device=tokens.device).expand_as(own_weight)
    slot_of_order = torch.cat([torch.arange(left, device=tokens.device).expand_as(stays), left + into], 1)
    slot_of_first = torch.zeros_like(order).scatter(1, order, slot_of_order)
    which = torch.arange(count, device=tokens.device)
    both = torch.cat([slot_of_first, left + seconds], 1)
    place = torch.where(which % 2 == 0, which // 2, best.shape[1] + which // 2)
    part_of = both.index_select(1, place)
    position = torch.cat([2 * stays, 2 * seconds + 1], 1)
    return made, torch.cat([weight[:, ::2].gather(1, stays), weights], 1), position, part_of
