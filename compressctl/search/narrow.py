"""Networks with fewer channels and blocks, taught by the original, then rounded: how wide they are, and what is tried of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from compressctl.core.patterns import literal
from compressctl.search.facts import Facts
from compressctl.search.request import Goal
from compressctl.search.space import EIGHT_BITS, FEWER_BITS, FOUR_ALONE, After, Candidate, Stage, packs, static

Bits = Literal[8, 4]
Of = Literal["macs", "parameters"]

FAMILY = "narrower"
LEARNING_RATE = 0.02
"""The highest, unless somebody says another."""

WHOLE = 100
"""Per cent of a network that nothing was cut from."""

_SCALE = (60, 40, 25, 15, 8)
"""Per cent that stay where no limit says how much has to go."""

_GENTLER = 80
"""Per cent, where the first of them lost too much."""

ROUNDED = 0.3
"""Share of a training's epochs that goes over 4-bit weights: a network learns its place first, then its roundings."""

_SAMPLES_SEEN = 400_000
"""That a whole training sees, epochs times samples, as far as 10 to 40 epochs do."""


@dataclass(frozen=True)
class Shape:
    """blocks: how many residual ones go. percent: of what `of` names that stays. bits: of weights; activations have 8.

    scope: of prune.channels. `measured` times widths in the runtime, which takes minutes: it is for networks of which no limit says how
    fast they must be, since those that are fitted to a limit are timed whole.
    """

    percent: int
    of: Of
    blocks: int = 0
    bits: Bits = 8
    scope: Literal["isomorphic", "measured"] = "isomorphic"

    @property
    def name(self) -> str:
        cut = [f"narrow{self.percent}"] if self.percent < WHOLE else []
        return "-".join([*([f"shorter{self.blocks}"] if self.blocks else []), *cut]) or "whole"

    @property
    def kind(self) -> str:
        """Of all its widths."""
        return "-".join([*([f"shorter{self.blocks}"] if self.blocks else []), "narrow"]) + _of_bits(self.bits)

    @property
    def label(self) -> str:
        """Of the network with its weights' bits."""
        return f"{self.name}{_of_bits(self.bits)}"

    @property
    def is_whole(self) -> bool:
        return self.percent == WHOLE and not self.blocks

    @property
    def rounding(self) -> Stage:
        """Of a stage that rounds: which layers have 4 bits."""
        return {} if self.bits == 8 else {"weights": "int4"}

    @property
    def words(self) -> str:
        gone = f"{self.blocks} residual block{'s' if self.blocks > 1 else ''} fewer" if self.blocks else ""
        what = "parameters" if self.of == "parameters" else "arithmetic"
        left = f"{self.percent} % of the {what}" if self.percent < WHOLE else ""
        return ", ".join(part for part in (gone, left) if part) or "the whole network"

    @property
    def cuts(self) -> Iterator[Stage]:
        if self.blocks:
            criterion = "latency" if self.of == "macs" else "loss_increase"
            yield {
                "id": "shorter",
                "use": "prune.layers",
                "remove": self.blocks,
                "criterion": criterion,
                "if_slower": "keep",
            }
        if self.percent < WHOLE:
            yield {
                "id": "narrow", "use": "prune.channels", "keep": self.percent / 100, "of": self.of, "scope": self.scope, "if_slower": "keep",
            }  # fmt: skip


@dataclass(frozen=True)
class Trim:
    """A network of which one program over tables chose channels, blocks and bits at once (`width_program.py`). cuts: stages that make it.
    four: layers with 4-bit weights. percent: of the multiply-accumulates that stay. words: what was cut."""

    label: str
    cuts: tuple[Stage, ...]
    four: tuple[str, ...]
    percent: int
    words: str

    @property
    def bits(self) -> Bits:
        """The fewest of any weight's."""
        return 4 if self.four else 8

    @property
    def is_whole(self) -> bool:
        return not self.cuts

    @property
    def rounding(self) -> Stage:
        if not self.four:
            return {}
        return {"overrides": [{"match": literal(name), "weights": "int4"} for name in self.four]}


AnyShape = Shape | Trim


def as_cut(shape: AnyShape) -> Candidate:
    """The network as it is before anything trains it: as large and as fast as it will be then."""
    return Candidate(
        f"{shape.label}-untrained",
        FAMILY,
        f"{shape.words}, not trained, then {_bits_words(shape)}",
        "shaped",
        (*shape.cuts, static(**shape.rounding)),
        compressed=shape.bits == 4,
        risk=FEWER_BITS,
    )


def on_a_scale(
    facts: Facts, goal: Goal, training: Mapping[str, Any], *, in_floats: bool = False, four_keep: bool = False
) -> Iterator[Candidate]:
    """Where no limit says how narrow a network has to be: what is harder follows where its gentler one is near. in_floats: whether weights alone are
    rounded, since integers gain less here. four_keep: whether 4-bit weights, which no training made good, kept the loss of the whole network: then they are tried so
    first, which costs no training."""
    epochs = epochs_of(facts, training)
    whole = Shape(WHOLE, "parameters") if size_is_harder(goal) else Shape(WHOLE, "macs", scope="measured")
    for percent, harder in _steps():
        shape = replace(whole, percent=percent)
        name = shape.name
        if in_floats:
            yield _weights_alone(shape, name, brief_of(epochs), facts, training, harder)
            yield _weights_alone(shape, f"{name}-long", epochs, facts, training, _mendable(name))
            continue
        yield _eight(shape, name, brief_of(epochs), training, harder)
        yield _eight(shape, f"{name}-long", epochs, training, _mendable(name))
        yield _eight_trained(shape, f"{name}-qat", epochs, training, _mendable(f"{name}-long"))
        four = replace(shape, bits=4)
        if four_keep:
            yield _again_rounded(_eight(four, f"{name}-w4a8", brief_of(epochs), training, (After(name, "near"),)))
            yield _again_rounded(_eight(four, f"{name}-long-w4a8", epochs, training, (After(f"{name}-long", "near"),)))
        first = (After(f"{name}-w4a8", "spends"),) if four_keep else (After(name, "near"),)
        yield _four(four, f"{name}-w4a8-qat", epochs, training, first)


def _steps() -> Iterator[tuple[int, tuple[After, ...]]]:
    """Per cent that stay, and what has to be seen before so many are tried."""
    first = f"narrow{_SCALE[0]}"
    yield _SCALE[0], ()
    yield _GENTLER, (After(first, "misses"),)
    for gentler, percent in pairwise(_SCALE):
        yield percent, (After(f"narrow{gentler}", "near"),)


def of_shapes(shapes: Sequence[AnyShape], facts: Facts, training: Mapping[str, Any]) -> Iterator[Candidate]:
    """Of networks that are small and fast enough: each is trained briefly, and those that lose least are trained to the end."""
    epochs = epochs_of(facts, training)
    brief = brief_of(epochs)
    rivals = tuple(f"{shape.label}-brief" for shape in shapes)
    for shape in shapes:
        name = shape.label
        leads = (After(f"{name}-brief", "leads", rivals),)
        if shape.bits == 4:
            yield _four(shape, f"{name}-brief", brief, training, ())
            yield _four(shape, name, epochs, training, leads)
        elif shape.is_whole:
            yield _eight_trained(shape, f"{name}-brief", brief, training, ())
            yield _eight_trained(shape, name, epochs, training, leads)
        else:
            yield _eight(shape, f"{name}-brief", brief, training, ())
            yield _eight(shape, name, epochs, training, leads)
            yield _eight_trained(shape, f"{name}-qat", epochs, training, _mendable(name))


@dataclass(frozen=True)
class Schedule:
    """How a network is trained. learning_rate: None for the family's own. rounded: share of the epochs with the roundings in place, 0 for none."""

    learning_rate: float | None
    temperature: float
    teacher_weight: float
    rounded: float


def scheduled(
    shape: AnyShape, name: str, epochs: int, training: Mapping[str, Any], schedule: Schedule, words: str
) -> Candidate:
    """Trained so, that many epochs in all."""
    cuts = [*shape.cuts]
    last = round(schedule.rounded * epochs) if cuts else epochs
    last = max(1, last) if shape.bits == 4 or schedule.rounded > 0 else last
    rate = {} if schedule.learning_rate is None else {"learning_rate": schedule.learning_rate}
    given = {**rate, **training, "temperature": schedule.temperature, "teacher_weight": schedule.teacher_weight}
    taught = [_taught(epochs - last, given)] if epochs > last else []
    rounded = _qat(last, given, **shape.rounding) if last else static()
    return Candidate(
        name,
        FAMILY,
        f"{shape.words}, {epochs} epochs, {words}, with {_bits_words(shape)}",
        "trained",
        (*cuts, *taught, rounded),
        weight=1.2 * _work(shape, epochs),
        compressed=shape.bits == 4,
        risk=FEWER_BITS,
        shape=as_cut(shape).name,
    )


def _mendable(name: str) -> tuple[After, ...]:
    """It lost too much, but not so much that nothing helps."""
    return After(name, "near"), After(name, "misses")


def epochs_of(facts: Facts, training: Mapping[str, Any]) -> int:
    """Of a whole training."""
    return int(training.get("epochs") or min(40, max(10, round(_SAMPLES_SEEN / facts.samples["train"]))))


def brief_of(epochs: int) -> int:
    """Epochs after which a network is held against others."""
    return max(2, epochs // 4)


def size_is_harder(goal: Goal) -> bool:
    """Whether size asks for more than speed does. 8 bits give four and two."""
    return (goal.smaller or (4 if goal.size_bytes else 1)) / 4 > (goal.speedup or 1) / 2


def _eight(shape: AnyShape, name: str, epochs: int, training: Mapping[str, Any], after: tuple[After, ...]) -> Candidate:
    """Taught, then rounded."""
    return Candidate(
        name,
        FAMILY,
        f"{shape.words}, {epochs} epochs with the original as teacher, then {_bits_words(shape)}",
        "trained",
        (*shape.cuts, _taught(epochs, training), static(**shape.rounding)),
        weight=_work(shape, epochs),
        compressed=shape.bits == 4,
        risk=EIGHT_BITS if shape.bits == 8 else FEWER_BITS,
        after=after,
        shape=as_cut(shape).name,
    )


def _again_rounded(one: Candidate) -> Candidate:
    """Its training lies in the cache: another candidate that has been seen by then is trained the same way."""
    return replace(one, weight=1.0)


def _weights_alone(
    shape: Shape, name: str, epochs: int, facts: Facts, training: Mapping[str, Any], after: tuple[After, ...]
) -> Candidate:
    """Taught, then computed in floats from weights of 4 bits."""
    return Candidate(
        name,
        FAMILY,
        f"{shape.words}, {epochs} epochs with the original as teacher, then weights alone in 4 bits",
        "trained",
        (*shape.cuts, _taught(epochs, training), FOUR_ALONE),
        weight=_work(shape, epochs),
        compressed=packs(facts),
        risk=FEWER_BITS,
        after=after,
    )


def _eight_trained(
    shape: AnyShape, name: str, epochs: int, training: Mapping[str, Any], after: tuple[After, ...]
) -> Candidate:
    """Taught, then trained with the roundings in place."""
    stages: tuple[Stage, ...]
    if not list(shape.cuts):
        words, stages = f"8 bits, {epochs} epochs with the roundings in place", (_qat(epochs, training),)
    else:
        words = f"{shape.words}, {epochs} epochs with the original as teacher, then trained with the roundings in place"
        stages = (*shape.cuts, _taught(epochs, training), _qat(max(2, epochs // 4), training))
    return Candidate(
        name, FAMILY, words, "trained", stages, weight=_work(shape, epochs) / 2, after=after, shape=as_cut(shape).name
    )


def _four(shape: AnyShape, name: str, epochs: int, training: Mapping[str, Any], after: tuple[After, ...]) -> Candidate:
    """Taught, then trained with 4-bit weights and 8-bit activations in place: so many epochs together."""
    cuts = [*shape.cuts]
    last = max(1, round(ROUNDED * epochs)) if cuts else epochs
    taught = [_taught(epochs - last, training)] if epochs > last else []
    rounded = _qat(last, training, **shape.rounding)
    return Candidate(
        name,
        FAMILY,
        f"{shape.words}, {epochs} epochs, the last {last} of them with {_bits_words(shape)} in place"
        if cuts
        else f"{_bits_words(shape)}, {epochs} epochs with the roundings in place",
        "trained",
        (*cuts, *taught, rounded),
        weight=1.2 * _work(shape, epochs),
        compressed=True,
        risk=FEWER_BITS,
        after=after,
        shape=as_cut(shape).name,
    )


def _work(shape: AnyShape, epochs: int) -> float:
    return float(epochs) * (0.4 + shape.percent / 100)


def _of_bits(bits: Bits) -> str:
    return "" if bits == 8 else "-w4a8"


def _bits_words(shape: AnyShape) -> str:
    if shape.bits == 8:
        return "8 bits"
    some = f" in {len(shape.four)} layers" if isinstance(shape, Trim) else ""
    return f"4-bit weights{some} and 8-bit activations"


def _taught(epochs: int, training: Mapping[str, Any]) -> Stage:
    return {
        "id": "recover",
        "use": "distill.logits",
        "teacher": "original",
        "learning_rate": LEARNING_RATE,
        **training,
        "epochs": epochs,
    }


def _qat(epochs: int, training: Mapping[str, Any], **params: Any) -> Stage:
    rate = float(training.get("learning_rate", LEARNING_RATE)) / 10
    return {
        "id": "int8", "use": "quantize.qat", "if_slower": "keep", "teacher": "original", **training, "learning_rate": rate, "epochs": epochs, **params,
    }  # fmt: skip
