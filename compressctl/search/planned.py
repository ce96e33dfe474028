"""Candidates that the program over layers foresees: some for each share of the loss that is allowed, in rounds that learn from what came of the last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from compressctl.recipe.schema import Prefer
from compressctl.search.conversions import INTEGERS
from compressctl.search.document import BY_TABLES, Figures, Point, Predicted
from compressctl.search.program import Choice, Foreseen, Program, Scales, Seen
from compressctl.search.program import words_of as _words_of
from compressctl.search.request import Goal
from compressctl.search.space import EIGHT_BITS, FEWER_BITS, Candidate
from compressctl.search.tables import Tables

FAMILY = "layer by layer"

_ROUNDS: tuple[tuple[float, ...], ...] = ((0.8, 0.4, 0.15), (0.9, 0.5), (0.9, 0.6))
"""Of the loss that is allowed, what each round's choices are expected to lose."""

WHOLE: Mapping[str, str] = {"int8": "int8", "w4a8": "int4", "weights8": "weights8", "shared16-int8": "shared16"}
"""Candidates that have one option everywhere, and tell what a technique's distances come to."""


@dataclass
class Planner:
    """limit_bytes: most that the file may take. is_brief: one choice of each kind in one round alone, where training is still to come, which
    reaches farther. choices, foreseen: by candidate."""

    tables: Tables
    goal: Goal
    limit_bytes: int | None
    prefer: Prefer
    is_brief: bool = False
    choices: dict[str, Choice] = field(default_factory=dict)
    foreseen: dict[str, Foreseen] = field(default_factory=dict)
    scales: list[Scales] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._program = Program(self.tables)

    def more(self, points: Mapping[str, Point]) -> list[Candidate]:
        """The next round's candidates, by what was measured so far; none where all rounds are over, or nothing new would come: everything in
        float is the original."""
        rounds = (_ROUNDS[0][:1],) if self.is_brief else _ROUNDS
        if len(self.scales) == len(rounds):
            return []
        scales = self._program.fitted(list(self._seen(points)), self.goal.drop)
        round_ = len(self.scales) + 1
        self.scales.append(scales)
        known = [_key(choice) for choice in (*self._whole().values(), *self.choices.values())]
        found: list[Candidate] = []
        for choice in self._solved(scales, rounds[round_ - 1]):
            if _key(choice) in known or not self._program.stages(choice):
                continue
            known.append(_key(choice))
            name = f"layers{round_}-{len(found) + 1}"
            self.choices[name], self.foreseen[name] = choice, self._program.foreseen(choice, scales)
            found.append(self.candidate(name, choice))
        return found

    def predicted(self, name: str) -> Predicted | None:
        """What was expected of a candidate when it was made up; None where it is none of these."""
        told = self.foreseen.get(name)
        if told is None:
            return None
        return Predicted(
            by=BY_TABLES, total_bytes=max(1, told.total_bytes), times_faster=told.times_faster, loss=told.loss
        )

    def _solved(self, scales: Scales, shares: tuple[float, ...]) -> Iterator[Choice]:
        """Within all limits for each share of the loss, and for the first of them without integers, too, where their times are least sure; where there
        is nothing, what loses least within the others, then what the loss alone allows."""
        drop, solve = self.goal.drop, partial(self._program.solve, scales, self.prefer)
        within = partial(solve, most_bytes=self.limit_bytes, least_faster=self.goal.speedup)
        found = [within(most_loss=share * drop) for share in shares]
        found.insert(1, within(most_loss=shares[0] * drop, computes_in_float=True))
        if not any(choice is not None for choice in found):
            found = [within(), solve(most_loss=drop)]
        yield from (choice for choice in found if choice is not None)

    def _whole(self) -> dict[str, Choice]:
        return {name: self._program.all_at(width) for name, width in WHOLE.items()}

    def _seen(self, points: Mapping[str, Point]) -> Iterator[Seen]:
        for name, choice in {**whole_files(self.tables, self._program), **self.choices}.items():
            point = points.get(name)
            if point is not None and point.figures is not None:
                figures = point.figures
                speed = point.briefly or figures.speed  # what every start knows at this place
                faster = speed.ratio if speed is not None else None
                yield seen_of(choice, figures, faster)

    def candidate(self, name: str, choice: Choice) -> Candidate:
        """What carries a choice out."""
        has_four = any(one.width in ("int4", "weights4") or one.clusters is not None for one in choice.values())
        ops = {layer.name: layer.op for layer in self.tables.layers}
        # Kernels for blocks of 4-bit weights read products as they are stored; everything else lies in bytes of a plain file.
        packs = any(
            one.width == "int4"
            or one.clusters is not None
            or (one.width == "weights4" and ops[name] not in ("MatMul", "Gemm"))
            for name, one in choice.items()
        )
        return Candidate(
            name,
            FAMILY,
            f"every layer by itself: {_words_of(choice)}",
            "planned",
            self._program.stages(choice),
            compressed=packs,
            choice=choice,
            risk=FEWER_BITS if has_four else EIGHT_BITS,
        )


def whole_files(tables: Tables, program: Program) -> dict[str, Choice]:
    """What files with one option everywhere are to the program, where the tables say what that is: not of an option that no layer offers, and where a
    layer was not looked at, for want of time, of 8 bits alone, which it has then."""
    offered = {option.name for layer in tables.layers for option in layer.options}
    is_whole = all(len(layer.options) > 1 or layer.options[0].width not in INTEGERS for layer in tables.layers)
    return {
        name: program.all_at(width)
        for name, width in WHOLE.items()
        if width in offered and (is_whole or width == "int8")
    }


def seen_of(choice: Choice, figures: Figures, times_faster: float | None) -> Seen:
    """What a measured file tells the program."""
    loss = figures.loss
    if loss is None:
        return Seen(choice, figures.total_bytes, times_faster, None)
    noise = None if loss.sqnr_db is None else 10 ** (-loss.sqnr_db / 10)
    return Seen(choice, figures.total_bytes, times_faster, loss.value, noise)


def _key(choice: Choice) -> tuple[str, ...]:
    return tuple(one.name for one in choice.values())
