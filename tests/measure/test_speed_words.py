"""What a ratio may be called: the words, the value and the interval agree, and no value is told of an interval too wide for one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.measure.speed_words import (
    ENERGY,
    SPEED,
    WIDEST,
    Scale,
    headline,
    in_a_cell,
    interval,
    sentence,
    speedup_of,
    verdict,
)

RATIOS = st.floats(0.01, 100)
PARTS = st.floats(0, 3)
"""How far an interval reaches from the value to one side, as a logarithm: up to twenty times."""


def _ends(ratio: float, below: float, above: float) -> tuple[float, float]:
    return ratio * 2.718281828459045**-below, ratio * 2.718281828459045**above


@given(RATIOS, PARTS, PARTS, st.sampled_from([SPEED, ENERGY, Scale("the speed-up", "less speed-up")]))
def test_a_value_that_is_told_lies_in_the_interval_that_is_told(
    ratio: float, below: float, above: float, scale: Scale
) -> None:
    low, high = _ends(ratio, below, above)
    words = sentence(speedup_of(ratio, low, high), scale)
    lower, upper = (float(number) for number in re.search(r"\(95 %: (\S+) to (\S+)\)$", words).groups())  # type: ignore[union-attr]
    assert lower <= upper
    told = re.match(r"(at least )?([\d.]+)x", words)
    if told is None:
        assert words.startswith(("no measurable change", "too noisy to say"))
        return
    is_bound, value = bool(told[1]), float(told[2])
    assert is_bound == (high > WIDEST * low)
    assert value <= upper
    # A bound is rounded down, so that it is never more than what the interval says.
    assert lower - 0.011 <= value <= lower if is_bound else lower <= value
    assert value >= 1


@given(RATIOS, PARTS, PARTS)
def test_the_words_match_the_sign(ratio: float, below: float, above: float) -> None:
    low, high = _ends(ratio, below, above)
    said = headline(speedup_of(ratio, low, high))
    if low <= 1 <= high:
        assert said == ("too noisy to say" if high > WIDEST * low else "no measurable change")
    assert ("faster" in said) <= (low > 1)
    assert ("slower" in said) <= (high < 1)
    assert said.endswith(verdict(low, high))


@given(RATIOS, PARTS, PARTS)
def test_a_cell_says_no_more_than_the_headline(ratio: float, below: float, above: float) -> None:
    speed = speedup_of(ratio, *_ends(ratio, below, above))
    cell, words = in_a_cell(speed), headline(speed)
    if not words.endswith(("faster", "slower")):
        assert cell == {"no measurable change": "no change", "too noisy to say": "too noisy"}[words]
        return
    told = re.fullmatch(r"(from |to )?([\d.]+)x", cell)
    assert told is not None
    assert bool(told[1]) == words.startswith("at least")
    assert float(told[2]) >= 1 if "faster" in words else float(told[2]) <= 1


@given(RATIOS, PARTS, PARTS)
def test_exchanging_the_two_files_exchanges_the_words(ratio: float, below: float, above: float) -> None:
    low, high = _ends(ratio, below, above)
    there, back = verdict(low, high), verdict(1 / high, 1 / low)
    turned = {"faster": "slower", "slower": "faster"}
    assert back == turned.get(there, there)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((1.72, 1.48, 1.76), "1.72x faster (95 %: 1.48 to 1.76)"),
        ((0.714, 0.71, 0.72), "1.40x slower (95 %: 1.38 to 1.41)"),
        ((1.02, 0.97, 1.06), "no measurable change (95 %: 0.97 to 1.06)"),
        ((35.35, 1.798, 696.4), "at least 1.79x faster (95 %: 1.79 to 697)"),
        ((0.1, 0.01, 0.4), "at least 2.50x slower (95 %: 2.50 to 100)"),
        ((1.4, 0.8, 3.0), "too noisy to say (95 %: 0.80 to 3.00)"),
        ((1.4, 1.004, 3.0), "too noisy to say (95 %: 1.00 to 3.00)"),
    ],
)
def test_sentences(found: tuple[float, float, float], words: str) -> None:
    assert sentence(speedup_of(*found)) == words


def test_more_energy_is_inverted_too() -> None:
    speed = speedup_of(0.5, 0.49, 0.51)
    assert sentence(speed, ENERGY) == "2.00x more energy (95 %: 1.96 to 2.05)"
    assert interval(speed) == "1.96 to 2.05"
