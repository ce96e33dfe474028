"""Candidates that compute what the input needs: fewer tokens in transformers, classifiers that answer early where they are sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compressctl.search.document import Point
from compressctl.search.facts import Facts
from compressctl.search.narrow import LEARNING_RATE, brief_of, epochs_of
from compressctl.search.request import Goal
from compressctl.search.space import EIGHT_BITS, FEWER_BITS, FOUR_ALONE, After, Candidate, Stage, packs, static

FEWER_TOKENS, EARLY_EXITS = "fewer tokens", "early exits"

_KEPT = (80, 60, 40)
"""Per cent of their tokens that blocks pass on, at each of three places."""

_MOST_GAINED = 1.4
"""Times as fast as without exits, at most: what an image costs that leaves nowhere, and heads, stay."""


def fewer_tokens(facts: Facts) -> Iterator[Candidate]:
    """Without training, each followed by a harder one where it loses little."""
    if not facts.has_network or not facts.can_calibrate or facts.quantized or facts.attends < 2:
        return
    for place, percent in enumerate(_KEPT):
        before = (After(f"tokens{_KEPT[place - 1]}", "near"),) if place else ()
        yield Candidate(
            f"tokens{percent}",
            FEWER_TOKENS,
            f"{percent} % of the tokens behind a quarter, a half and three quarters of the blocks, then 8 bits, activations as they come",
            "searched",
            (
                {"id": "tokens", "use": "dynamic.tokens", "keep": percent / 100, "if_slower": "keep"},
                {"id": "int8", "use": "quantize.dynamic", "if_slower": "keep"},
            ),
            weight=1.5,
            after=(*((After("dynamic", "near"),) if facts.share("products") > 0.3 else ()), *before),
        )


def taught_tokens(facts: Facts, training: Mapping[str, Any], *, in_floats: bool) -> Iterator[Candidate]:
    """The same trained with their fewer tokens, where a gentler one lost little. in_floats: whether weights alone are rounded then, since integers gain less here."""
    epochs = epochs_of(facts, training)
    rounding: Stage = FOUR_ALONE if in_floats else {"id": "int8", "use": "quantize.dynamic", "if_slower": "keep"}
    words = "weights alone in 4 bits" if in_floats else "8 bits, activations as they come"
    for place, percent in enumerate(_KEPT):
        finetune = {"teacher": "original", "learning_rate": LEARNING_RATE, **training, "epochs": epochs}
        yield Candidate(
            f"tokens{percent}-taught",
            FEWER_TOKENS,
            f"{percent} % of the tokens behind a quarter, a half and three quarters of the blocks, {epochs} epochs with the original as teacher, then {words}",
            "trained",
            (
                {"id": "tokens", "use": "dynamic.tokens", "keep": percent / 100, "if_slower": "keep", "finetune": finetune},
                rounding,
            ),
            weight=epochs * (0.4 + percent / 100),
            compressed=in_floats and packs(facts),
            risk=FEWER_BITS if in_floats else EIGHT_BITS,
            after=(After(f"tokens{percent}", "misses"), After(f"tokens{_KEPT[max(0, place - 1)]}", "near")),
        )  # fmt: skip


def no_exits(facts: Facts, goal: Goal, points: Mapping[str, Point]) -> str | None:
    """Why exits are not tried; None where they are. A file with exits holds all of the network."""
    known = _rounded(points)
    if facts.task != "classification":
        return f"exits are tried on classifiers, and the task is {facts.task}"
    if known is None:
        return "nothing in 8 bits was timed that they could be faster than"
    most, whole = goal.limit_bytes(facts.original_bytes), points[known[0]].figures
    if most is not None and whole is not None and whole.total_bytes > most:
        return f"{known[0]}, which lacks them, takes {whole.total_bytes:,} bytes already, and {most:,} are allowed"
    reached = _MOST_GAINED * known[1]
    if goal.speedup is not None and goal.speedup > reached:
        return f"they bring {_MOST_GAINED:g} times the speed of {known[0]} at most, {reached:.2g}x, and {goal.speedup:g}x is asked for"
    return None


def _rounded(points: Mapping[str, Point]) -> tuple[str, float] | None:
    """The whole network in 8 bits, and how many times as fast it is."""
    for name in ("int8", "dynamic"):
        figures = points[name].figures if name in points else None
        if figures is not None and figures.speed is not None:
            return name, figures.speed.ratio
    return None


def early_exits(
    facts: Facts, goal: Goal, training: Mapping[str, Any], points: Mapping[str, Point]
) -> Iterator[Candidate]:
    """The whole network with exits, trained briefly first. None where they could not bring what is asked. points: what was measured so far."""
    known = _rounded(points)
    if known is None or no_exits(facts, goal, points) is not None:
        return
    dynamic = {"id": "int8", "use": "quantize.dynamic", "if_slower": "keep"}
    rounding: Stage = static() if known[0] == "int8" else dynamic
    epochs = epochs_of(facts, training)
    for name, count, after in (
        ("exits-brief", brief_of(epochs), ()),
        ("exits", epochs, (After("exits-brief", "near"),)),
    ):
        stage = {
            "id": "exits",
            "use": "dynamic.exits",
            "teacher": "original",
            "learning_rate": LEARNING_RATE,
            **training,
            "epochs": count,
            "drop": 0.75 * goal.drop,
            "if_slower": "keep",
        }
        yield Candidate(
            name,
            EARLY_EXITS,
            f"the whole network with two exits for what is sure, {count} epochs with the original as teacher, then 8 bits",
            "trained",
            (stage, rounding),
            weight=1.7 * count,
            after=after,
        )
