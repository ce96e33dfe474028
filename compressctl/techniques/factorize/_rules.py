"""One layer's rank by a rule that looks at that layer alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from compressctl.techniques.factorize._split import Option, Rank, Split, option, options, rounded_up
from compressctl.techniques.factorize.params import RankRule

Rule = int | tuple[int, int] | Literal["evbmf", "full"] | RankRule


def choose(splits: Sequence[Split], rule: Rule, round_to: int) -> Option | str:
    """The layer at the rank that the rule asks for, by the best of several schemes; or why it stays whole.

    rule: none of those by which layers decide together. Where the rule fixes the error the scheme with fewer MACs is taken,
    where it fixes the size the one with less error.
    """
    found = [_of_one(split, rule, round_to) for split in splits]
    usable = [one for one in found if isinstance(one, Option)]
    if not usable:
        return str(found[0])
    fixes_size = isinstance(rule, int | tuple) or (isinstance(rule, RankRule) and rule.ratio is not None)
    best: Callable[[Option], float] = (lambda one: one.error) if fixes_size else (lambda one: one.macs)
    return min(usable, key=best)


def _of_one(split: Split, rule: Rule, round_to: int) -> Option | str:
    if isinstance(rule, int | tuple):
        return _given(split, rule)
    if rule == "evbmf":
        found = split.evbmf()
        return _if_it_saves(
            option(split, _up(split, found, round_to)), f"the rank that stands out of its noise, {_shown(found)},"
        )
    assert isinstance(rule, RankRule)
    if rule.ratio is not None:
        return _within(split, rule.ratio, round_to)
    lost = 1.0 - rule.energy if rule.energy is not None else (rule.error or 0.0) ** 2
    return _accurate(split, lost, round_to)


def _given(split: Split, rule: int | tuple[int, int]) -> Option | str:
    """The rank as it was given: not rounded."""
    wanted: Rank = rule if isinstance(rule, tuple) else tuple(min(rule, most) for most in split.full_rank)
    if isinstance(rule, int) and rule > max(split.full_rank):
        return f"rank {rule} is more than its full rank, {_shown(split.full_rank)}"
    if any(rank > most for rank, most in zip(wanted, split.full_rank, strict=True)):
        return f"rank {_shown(wanted)} is more than its full rank, {_shown(split.full_rank)}"
    return _if_it_saves(option(split, wanted), f"rank {_shown(wanted)}")


def _within(split: Split, ratio: float, round_to: int) -> Option | str:
    """The least error of what keeps at most a share of the parameters; the smallest there is when nothing is that small."""
    found = options(split, round_to)
    if not found:
        return _NEVER_SAVES
    small = [one for one in found if one.parameters <= ratio * split.layer.parameters]
    if not small:
        return min(found, key=lambda one: one.parameters)
    # Error falls along each rank, so that with a single one only the largest is worth a decomposition.
    return small[-1] if len(split.full_rank) == 1 else min(small, key=lambda one: (one.error, one.macs))


def _accurate(split: Split, lost: float, round_to: int) -> Option | str:
    """The fewest MACs of what loses at most a share of the squares."""
    found = options(split, round_to)
    if not found:
        return _NEVER_SAVES
    allowed = lost + 1e-12
    if len(split.full_rank) > 1:
        chosen = next((one for one in found if one.error <= allowed), None)
    else:
        chosen = _first(found, allowed)
    return chosen or f"every rank that saves MACs loses more ({found[-1].error:.2%} of its output's squares or more)"


def _first(found: Sequence[Option], allowed: float) -> Option | None:
    """The first whose error is allowed, by halving: errors fall along the list."""
    if found[-1].error > allowed:
        return None
    low, high = -1, len(found) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if found[middle].error <= allowed:
            high = middle
        else:
            low = middle
    return found[high]


def _up(split: Split, rank: Rank, round_to: int) -> Rank:
    return tuple(rounded_up(number, most, round_to) for number, most in zip(rank, split.full_rank, strict=True))


def _if_it_saves(found: Option, what: str) -> Option | str:
    return (
        found if found.saves else f"{what} would not lower its MACs ({found.macs} instead of {found.split.layer.macs})"
    )


def _shown(rank: Rank) -> str:
    return " x ".join(map(str, rank))


_NEVER_SAVES = "no rank lowers its MACs"
