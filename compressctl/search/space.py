"""Recipes that may fit a model, from the cheapest to the dearest, and what has to be seen before the next of a family is tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compressctl.search.facts import Facts
from compressctl.search.request import Goal
from compressctl.search.tables import LayerOption

Kind = Literal["plain", "calibrated", "planned", "searched", "shaped", "trained", "learned"]
KINDS: tuple[Kind, ...] = ("plain", "calibrated", "planned", "searched", "shaped", "trained", "learned")
"""In the order in which they are tried: without samples, from samples, by tables of what every layer costs, from many runs, networks that
nothing has trained yet, from epochs, from learning of each layer's roundings, which takes longest for what it brings."""

Stage = Mapping[str, Any]

FLOAT16, EIGHT_BITS, FEWER_BITS = 0, 1, 2
"""Risks, where no sample can tell what is lost."""


FOUR_ALONE: Stage = {"use": "quantize.weights", "bits": 4, "method": "hqq"}
"""Weights of 4 bits, which become floats again at load."""


@dataclass(frozen=True)
class After:
    """Another candidate that has to be measured first. `near`: it lost little enough that more may be asked of the family;
    `misses`: it lost more than is allowed, which a gentler or dearer way may mend; `spends`: more than half of that; `leads`: it is one of the two that lost least
    of its rivals (successive halving)."""

    candidate: str
    was: Literal["near", "misses", "spends", "leads"]
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """stages: as in a recipe. weight: work beside others of its kind. compressed: whether constants lie in the file as indices and
    codebooks. after: every one must hold. shape: the candidate that has the same shapes and is not trained. width: the option
    of tables that all layers have which may; None where they have several, or something else is done. choice: by layer, of one that tables foresaw. is_clocked: whether this machine's clock decides
    what it is."""

    name: str
    family: str
    words: str
    kind: Kind
    stages: tuple[Stage, ...]
    weight: float = 1.0
    compressed: bool = False
    risk: int = EIGHT_BITS
    after: tuple[After, ...] = ()
    shape: str | None = None
    width: str | None = None
    choice: Mapping[str, LayerOption] | None = None
    is_clocked: bool = False

    @property
    def training(self) -> frozenset[str]:
        """Ids of the stages that train."""
        return frozenset(stage["id"] for stage in self.stages if "epochs" in stage or "finetune" in stage)

    @property
    def takes_network(self) -> bool:
        """Whether it works on modules, which a graph does not have."""
        return self.kind in ("shaped", "trained") or any(stage["use"] == "dynamic.tokens" for stage in self.stages)

    @property
    def gains_speed(self) -> bool:
        """Whether it can be faster than float at all: codes that are made float again at load are not."""
        return self.family not in ("float16", "shared values")


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """As they are tried."""
    return sorted(candidates, key=lambda one: (KINDS.index(one.kind), one.weight))


def untrained(facts: Facts, goal: Goal) -> Iterator[Candidate]:
    """All that need no training. Where nothing can judge a file there are 16-bit floats and rounded weights alone."""
    yield from _plain(facts)
    yield from _calibrated(facts)
    yield from _searched(facts, goal)


def left_out(facts: Facts) -> Iterator[tuple[str, str]]:
    """Families that this model or its data leave no room for, each with why."""
    if facts.quantized:
        yield (
            "fewer bits",
            f"the model holds integers already ({', '.join(facts.quantized[:3])}): start from the float file",
        )
    if not facts.can_calibrate:
        why = (
            "nothing calibrates it: the data are random values"
            if facts.is_random
            else "there are no samples that could calibrate it"
        )
        yield "8-bit activations", why
    if not facts.has_lessons:
        yield "training", "it takes labels, samples to train on, and samples to choose by"
    elif facts.quantized:
        yield (
            "training",
            f"the model holds integers already ({', '.join(facts.quantized[:3])}): start from the float file",
        )
    elif facts.no_network:
        yield "training", f"no network can be made of the ONNX file: {facts.no_network}"


def _plain(facts: Facts) -> Iterator[Candidate]:
    """Without samples."""
    if not facts.quantized:
        yield Candidate("float16", "float16", "weights in 16-bit floats", "plain", ({"use": "cast"},), risk=FLOAT16)
    if facts.share("convolutions", "products", "recurrent", "embeddings") <= 0:
        return
    yield Candidate(
        "weights8",
        "weights",
        "weights alone in 8 bits",
        "plain",
        ({"use": "quantize.weights", "bits": 8, "granularity": "channel"},),
        width="weights8",
    )
    yield Candidate(
        "weights4",
        "weights",
        "weights alone in 4 bits",
        "plain",
        (FOUR_ALONE,),
        compressed=packs(facts),
        risk=FEWER_BITS,
        after=(After("weights8", "near"),),
        width="weights4",
    )


def packs(facts: Facts) -> bool:
    """Whether 4-bit codes of convolutions would lie in bytes of a plain file."""
    return facts.share("convolutions") > facts.share("products")


def _calibrated(facts: Facts) -> Iterator[Candidate]:
    """From samples, in one pass."""
    if not facts.can_calibrate or facts.quantized:
        return
    if facts.share("products", "recurrent") > 0.3:
        stage = {"use": "quantize.dynamic", "if_slower": "keep"}
        yield Candidate("dynamic", "dynamic", "8 bits, activations as they come", "calibrated", (stage,))
    if facts.share("convolutions", "products") > 0.05:
        yield Candidate("int8", "int8", "weights and activations in 8 bits", "calibrated", (static(),), width="int8")
        yield Candidate(
            "w4a8",
            "int8",
            "4-bit weights, 8-bit activations",
            "calibrated",
            (static(weights="int4"),),
            compressed=True,
            risk=FEWER_BITS,
            after=(After("int8", "near"),),
            width="int4",
        )


def static(**params: Any) -> dict[str, Any]:
    """The clock is the search's own, so that a stage is never undone for being slower."""
    return {"id": "int8", "use": "quantize.static", "if_slower": "keep", **params}


def _searched(facts: Facts, goal: Goal) -> Iterator[Candidate]:
    """From samples, layer by layer, or by many runs."""
    if not facts.can_calibrate or facts.quantized:
        return
    if facts.share("convolutions", "products") > 0.05:
        yield from _int8(facts, goal)
    if facts.share("convolutions", "products", "recurrent") > 0.05:
        yield from _shared()
        yield from _low_rank()
    if facts.share("products") > 0.3:
        yield Candidate(
            "weights4-gptq",
            "weights",
            "weights alone in 4 bits, errors made good column by column (GPTQ)",
            "searched",
            ({"use": "quantize.weights", "bits": 4, "method": "gptq"},),
            compressed=packs(facts),
            risk=FEWER_BITS,
            after=(After("weights4", "misses"),),
            width="weights4",
        )


def _int8(facts: Facts, goal: Goal) -> Iterator[Candidate]:
    gate = _gate(facts, goal)
    yield Candidate(
        "int8-placed",
        "int8",
        "8 bits, layers that the clock finds faster in float where they stand in float",
        "searched",
        (static(placement="measured", placement_time="2m"),),
        weight=2,
        after=(After("int8", "near"),),
        is_clocked=True,
    )
    if gate is not None:
        yield Candidate(
            "int8-gated",
            "int8",
            "8 bits, layers that cost too much back in float",
            "searched",
            (static(gate={**gate, "otherwise": "bisect"}),),
            after=(After("int8", "misses"),),
        )
    yield Candidate(
        "int8-adaround",
        "int8",
        "8 bits, roundings learned layer by layer (AdaRound)",
        "learned",
        (static(rounding="adaround"),),
        after=(After("int8", "misses"),),
        width="int8",
    )
    yield Candidate(
        "w4a8-adaround",
        "int8",
        "4-bit weights, 8-bit activations, roundings learned layer by layer (AdaRound)",
        "learned",
        (static(weights="int4", rounding="adaround"),),
        compressed=True,
        risk=FEWER_BITS,
        after=(After("w4a8", "misses"),),
        width="int4",
    )


def _gate(facts: Facts, goal: Goal) -> dict[str, Any] | None:
    """What gives layers back to float: three quarters of what may be lost, since the samples that choose are few."""
    if facts.scores:
        return {"accuracy_drop": 0.75 * goal.drop}
    return {"cosine": 1 - 0.0075 * goal.drop} if goal.drop < 100 else None


def _shared() -> Iterator[Candidate]:
    for clusters in (16, 8):
        yield Candidate(
            f"shared{clusters}",
            "shared values",
            f"{clusters} values for the weights of a layer, errors made good by later weights",
            "searched",
            ({"use": "share.kmeans", "clusters": clusters, "compensate": True},),
            compressed=True,
            risk=FEWER_BITS,
            after=(After("shared16", "near"),) if clusters == 8 else (),
            width="float",
        )
        share = {"id": "share", "use": "share.kmeans", "clusters": clusters, "compensate": True, "if_slower": "keep"}
        yield Candidate(
            f"shared{clusters}-int8",
            "int8",
            f"{clusters} values for the weights of a layer, errors made good by later weights, then 8 bits",
            "searched",
            (share, static()),
            compressed=True,
            risk=FEWER_BITS,
            after=(After("int8", "near"), *((After("shared16-int8", "near"),) if clusters == 8 else ())),
            width=f"shared{clusters}",
        )


def _low_rank() -> Iterator[Candidate]:
    for percent in (70, 50):
        yield Candidate(
            f"rank{percent}-int8",
            "low rank",
            f"layers in two thinner ones with {percent} % of the arithmetic where that is faster, then 8 bits",
            "searched",
            ({"id": "split", "use": "factorize.svd", "if_slower": "keep", "rank": {"ratio": percent / 100}}, static()),
            weight=1.5,
            after=(After("int8", "near"), *((After("rank70-int8", "near"),) if percent == 50 else ())),
            is_clocked=True,
        )


@dataclass
class Tree:
    """Which candidates can be tried now, which never will be, by what was measured so far.

    lost: by candidate, the loss against what is allowed: 1 is all of it; None where it failed or nothing can tell.
    """

    candidates: list[Candidate]
    lost: dict[str, float | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def next(self) -> Candidate | None:
        """The first whose conditions hold, and of those that lead their rivals the one that lost least: there may be time for one alone. Those
        whose conditions can no longer hold are refused, with why."""
        self._refuse()
        able = [one for one in self.waiting() if all(self._holds(each) for each in one.after)]
        if not able or not any(each.was == "leads" for each in able[0].after):
            return able[0] if able else None
        leading = [one for one in able if any(each.was == "leads" for each in one.after)]
        return min(leading, key=self._lost_before)

    def _lost_before(self, one: Candidate) -> float:
        """By what it was trained briefly as."""
        seen = [self.lost.get(each.candidate) for each in one.after if each.was == "leads"]
        return min((lost for lost in seen if lost is not None), default=math.inf)

    def waiting(self) -> list[Candidate]:
        """All that may still be tried."""
        return [one for one in self.candidates if one.name not in self.lost and one.name not in self.refused]

    def refuse(self, name: str, why: str) -> None:
        self.refused[name] = why

    def _refuse(self) -> None:
        """Until nothing changes: what waits for one that is refused is refused too."""
        is_changed = True
        while is_changed:
            is_changed = False
            for one in self.waiting():
                why = next((found for each in one.after if (found := self._never(each)) is not None), None)
                if why is not None:
                    self.refused[one.name] = why
                    is_changed = True

    def _holds(self, after: After) -> bool:
        is_seen = all(name in self.lost or name in self.refused for name in after.rivals)
        return after.candidate in self.lost and is_seen and self._never(after) is None

    def _never(self, after: After) -> str | None:
        """Why a condition cannot hold any more; None while it may, or does."""
        name = after.candidate
        if name in self.refused:
            return f"{name} was not tried"
        if name not in {one.name for one in self.candidates}:
            return f"{name} is not for this model"
        if name not in self.lost:
            return None
        lost = self.lost[name]
        if lost is None:
            return f"{name} gave nothing to go on from"
        if after.was == "near" and lost > NEAR:
            return f"{name}, which is gentler, already lost {lost:.1f} times what is allowed"
        if after.was == "misses" and lost <= 1:
            return f"{name}, which is cheaper, already keeps what is allowed"
        if after.was == "spends" and lost <= 0.5:
            return f"{name}, which is cheaper, already keeps half of what is allowed"
        if after.was == "leads" and (ahead := self._ahead(after)) is not None:
            return f"{ahead} lost less after as many epochs"
        return None

    def _ahead(self, after: After) -> str | None:
        """The rivals that go on instead; None while some are still to be seen, or it is one of those that go on."""
        if any(name not in self.lost and name not in self.refused for name in after.rivals):
            return None
        seen = {name: lost for name in after.rivals if (lost := self.lost.get(name)) is not None}
        least = min(seen.values(), default=0.0)
        near = [name for name in seen if seen[name] <= least + _BEHIND]
        best = sorted(near, key=lambda name: (seen[name], name))[:_GO_ON]
        return None if after.candidate in best else " and ".join(best)


NEAR = 3.0
"""Times what may be lost, up to which a family is continued."""

_GO_ON = 2
"""Of networks that were trained briefly, how many are trained to the end."""

_BEHIND = 2.0
"""Times what may be lost, by which one of them may lie behind the best."""
