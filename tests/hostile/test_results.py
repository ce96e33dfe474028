"""What models give, where reading or comparing it costs more than it says."""

import numpy as np
import pytest

from compressctl.core.errors import TimeIsUpError
from compressctl.core.events import Events
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Judge
from compressctl.measure import score
from compressctl.measure.score import Predictions, decoded_change
from compressctl.pipeline.event_listeners import TimeLimit
from compressctl.tasks.text import STRINGS, cer

LONG = "ab" * 500_000


def predictions(*results: object) -> Predictions:
    return Predictions(as_objects(results), None, np.arange(len(results)))


def test_texts_of_a_million_letters() -> None:
    """That they differ is known, and by how much is not; where they do not, it is 0."""
    found = STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG[::-1], LONG]))
    assert (found.reference, found.kept, found.edits) == (2, 1, None)
    assert STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG, LONG + "c"])).edits == 1


def test_texts_of_thousands_of_different_letters() -> None:
    """A mask of each letter would take gigabytes."""
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert STRINGS.tally(as_objects([letters]), as_objects([letters[::-1]])).edits is None


def test_texts_too_long_for_their_metric() -> None:
    with pytest.raises(ValueError, match="sample 1 has 1,000,000 characters, and 1,000,000 in its label: too many"):
        cer(as_objects(["a", LONG]), as_objects(["a", LONG[::-1]]))


def test_a_time_limit_ends_the_comparison_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_SECONDS_WITHOUT_EVENT", 0)
    texts = predictions(*["ab"] * 20)
    with pytest.raises(TimeIsUpError):
        decoded_change(texts, texts, Judge("recognition", decode=lambda outputs: []), None, Events(TimeLimit(-1)))
