"""What the report says of integers that were placed by the clock."""

from typing import Any

import pytest

from compressctl.report.placement import placement_words

TIMED: dict[str, Any] = {
    "could_be_integers": 33,
    "float_by_the_clock": [{"layers": ["a", "b"], "brings_ms": 0.2}, {"layers": ["c"]}],
    "timed_on": {"backend": "onnxruntime", "threads": 1, "batch_size": 3},
    "placements_timed": 41,
    "seconds": 58.6,
    "speedup_over_all_integers": 1.314,
}
EFFORT = "(41 placements timed in 59 s on onnxruntime, batch 3, 1 thread)"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({}, None),
        (
            {"placement": TIMED},
            f"put 3 of 33 layers in float by the clock, 1.31x the speed of all in integers {EFFORT}",
        ),
        (
            {"placement": {**TIMED, "float_by_the_clock": []}},
            f"kept every layer that can in integers: no placement was faster beyond the noise {EFFORT}",
        ),
        ({"placement": {"not_timed": "the target is arm64"}}, "timed no placement of integers: the target is arm64"),
    ],
    ids=["another stage", "placed", "kept", "not timed"],
)
def test_a_sentence_says_what_the_clock_chose(facts: dict[str, Any], words: str | None) -> None:
    assert placement_words(facts) == words
