"""The rank of every layer: by rules that look at one layer, by budgets that all share, and by the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.techniques.factorize._global_ranks import Saves, Step, cost, keeping, path, state
from compressctl.techniques.factorize._layer_rules import LayerRule
from compressctl.techniques.factorize._rules import choose
from compressctl.techniques.factorize._split import Option, Rank, Split
from compressctl.techniques.factorize.params import RankRule

_LEVELS = 64
"""Points along the path of steps that the validation split tells apart: a finer one would follow its noise."""

_ROUNDS = 5
"""Times that ranks are found anew without the layers that the clock refused."""


class Validate(Protocol):
    def __call__(self, chosen: Mapping[str, Option]) -> float:
        """Points lost on the validation split when these layers are factorized."""
        ...


Time = Callable[[Option], tuple[float, float]]
"""A layer's latency in milliseconds, whole and in pieces, alone on the target's runtime."""


@dataclass(frozen=True)
class Chosen:
    """options: by layer. whole: reasons by layer. latency: milliseconds whole and in pieces, of every layer that was timed.

    tried: for each score that was measured, the points lost, the share of what `saves` counts that was left, in order.
    """

    options: dict[str, Option]
    whole: dict[str, str]
    latency: dict[str, tuple[float, float]] = field(default_factory=dict)
    tried: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Chooser:
    """treatments: of every layer. splits: of each, by name; none where no scheme fits it.

    validate, time: None where the run cannot measure.
    """

    treatments: Sequence[LayerRule]
    splits: Mapping[str, Sequence[Split]]
    saves: Saves
    round_to: int
    events: Events
    validate: Validate | None = None
    time: Time | None = None

    def choose(self) -> Chosen:
        """Ranks of all layers, until none is slower in pieces. Raises UsageError where a rule needs scores and there are none."""
        refused: dict[str, str] = {}
        latency: dict[tuple[str, str, Rank], tuple[float, float]] = {}
        tried: list[dict[str, Any]] = []
        for _ in range(_ROUNDS):
            chosen = self._chosen(refused, tried)
            slower = self._slower(chosen.options, latency)
            if not slower:
                break
            refused |= slower
        options = {name: one for name, one in chosen.options.items() if name not in refused}
        whole = {**chosen.whole, **refused}
        times = {name: time for (name, *_), time in latency.items()}
        times |= {name: latency[_key(one)] for name, one in options.items() if _key(one) in latency}
        return Chosen(options, whole, times, tuple(tried))

    def _chosen(self, refused: Mapping[str, str], tried: list[dict[str, Any]]) -> Chosen:
        options: dict[str, Option] = {}
        whole: dict[str, str] = dict(refused)
        groups: dict[RankRule, list[LayerRule]] = {}
        for treatment in self.treatments:
            name, rule = treatment.layer.owner, treatment.rule
            if name in refused:
                continue
            if rule == "full" or (treatment.conv == "skip" and not treatment.layer.is_linear):
                whole[name] = "the recipe leaves it whole"
            elif not self.splits.get(name):
                whole[name] = "nothing in it for this technique to split"
            elif isinstance(rule, RankRule) and rule.is_shared:
                groups.setdefault(rule, []).append(treatment)
            else:
                found = choose(self.splits[name], rule, self.round_to)
                if isinstance(found, Option):
                    options[name] = found
                else:
                    whole[name] = found
        for rule, members in groups.items():
            shared = self._shared(rule, members, options, tried)
            options |= shared
            left = [member.layer.owner for member in members if member.layer.owner not in shared]
            whole |= dict.fromkeys(left, "other layers saved as much for less error")
        return Chosen(options, whole)

    def _shared(
        self, rule: RankRule, members: Sequence[LayerRule], others: Mapping[str, Option], tried: list[dict[str, Any]]
    ) -> dict[str, Option]:
        """Ranks of layers that decide together. others: what is chosen for the rest."""
        steps = path(
            {member.layer.owner: self.splits[member.layer.owner] for member in members}, self.saves, self.round_to
        )
        total = sum(cost(member.layer, self.saves) for member in members)
        if rule.global_ratio is not None:
            return state(steps[: keeping(steps, total, rule.global_ratio)])
        return self._validated(rule, steps, total, others, tried)

    def _validated(
        self,
        rule: RankRule,
        steps: Sequence[Step],
        total: int,
        others: Mapping[str, Option],
        tried: list[dict[str, Any]],
    ) -> dict[str, Option]:
        """As many steps as the measured score allows, by halving: the score falls along the path but for noise."""
        if self.validate is None:
            raise UsageError(
                "rank: validation_drop needs scores, and the validation split has no labelled samples",
                hint="set data.validation, or use energy, error or global_ratio",
            )
        assert rule.validation_drop is not None
        counts = sorted({keeping(steps, total, 1.0 - level / _LEVELS) for level in range(1, _LEVELS + 1)} - {0})
        low, high = -1, len(counts)
        while high - low > 1:
            middle = (low + high) // 2
            found = state(steps[: counts[middle]])
            drop = self.validate({**others, **found})
            left = 1.0 - sum(step.saved for step in steps[: counts[middle]]) / total
            tried.append({"drop": drop, f"{self.saves}_left": left})
            self.events.emit("note", message=f"{left:.0%} of the layers' {self.saves} left: drop {drop:.2f}")
            if drop <= rule.validation_drop:
                low = middle
            else:
                high = middle
        return state(steps[: counts[low]]) if low >= 0 else {}

    def _slower(
        self, options: Mapping[str, Option], latency: dict[tuple[str, str, Rank], tuple[float, float]]
    ) -> dict[str, str]:
        """The layers that are slower in pieces, with the reason. Adds what is measured to latency."""
        if self.time is None:
            return {}
        slower = {}
        for done, (name, one) in enumerate(options.items()):
            key = _key(one)
            if key not in latency:
                latency[key] = self.time(one)
                self.events.progress("timing layers", done + 1, len(options))
            before, after = latency[key]
            if after > before:
                slower[name] = f"slower in pieces: {after:.4f} ms instead of {before:.4f} ms"
        return slower


def _key(one: Option) -> tuple[str, str, Rank]:
    return one.split.layer.owner, one.split.scheme, one.rank
