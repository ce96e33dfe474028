"""The convention of language models, against loops over single tokens in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.errors import UsageError
from compressctl.core.source import SummedMetric
from compressctl.numerics import next_token
from compressctl.numerics.next_token import IGNORED_LABEL, next_token_losses, next_tokens
from compressctl.tasks.perplexity import perplexity

Text = tuple[np.ndarray, np.ndarray]


@st.composite
def texts(draw: st.DrawFn) -> Text:
    """Logits (n, tokens, vocabulary) and tokens (n, tokens), of which some are ignored, but not all."""
    samples, tokens, vocabulary = draw(st.integers(1, 5)), draw(st.integers(2, 6)), draw(st.integers(2, 9))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    labels = rng.integers(0, vocabulary, (samples, tokens))
    labels[rng.random(labels.shape) < draw(st.sampled_from([0.0, 0.4]))] = IGNORED_LABEL
    labels[0, 1] = 0
    return rng.normal(size=(samples, tokens, vocabulary)).astype(np.float32) * 5, labels


def by_hand(outputs: np.ndarray, labels: np.ndarray) -> list[float]:
    """The cross-entropy of each token that counts, one at a time."""
    found = []
    for sample, tokens in zip(outputs.astype(float), labels, strict=True):
        for position in range(1, len(tokens)):
            if tokens[position] != IGNORED_LABEL:
                logits = [math.exp(value) for value in sample[position - 1]]
                found.append(-math.log(logits[tokens[position]] / sum(logits)))
    return found


@given(texts())
def test_perplexity_is_what_a_loop_over_tokens_finds(text: Text) -> None:
    losses = by_hand(*text)
    assert perplexity(*text) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-9)


@given(texts(), st.integers(1, 4))
def test_totals_of_batches_add_up_to_those_of_the_whole(text: Text, cut: int) -> None:
    outputs, labels = text
    assert isinstance(perplexity, SummedMetric)
    parts = [perplexity.totals(outputs[:cut], labels[:cut]), perplexity.totals(outputs[cut:], labels[cut:])]
    assert perplexity.value(np.sum(parts, axis=0)) == pytest.approx(perplexity(outputs, labels), rel=1e-12)


@given(texts())
def test_training_minimizes_the_logarithm_of_what_is_measured(text: Text) -> None:
    torch = pytest.importorskip("torch")
    from compressctl.numerics.next_token import next_token_loss

    outputs, labels = text
    loss = next_token_loss(torch.as_tensor(outputs), torch.as_tensor(labels))
    assert loss.item() == pytest.approx(math.log(perplexity(outputs, labels)), rel=1e-4, abs=1e-5)


@given(texts(), st.integers(1, 200))
def test_the_size_of_a_block_changes_nothing(text: Text, values: int) -> None:
    whole = next_token_losses(*text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_token, "_VALUES_AT_ONCE", values)
        total, count = next_token_losses(*text)
    assert (total, count) == (pytest.approx(whole[0], rel=1e-12), whole[1])


def test_neither_the_last_logits_nor_the_first_label_count() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(2, 4, 5)), rng.integers(0, 5, (2, 4))
    other, others = outputs.copy(), labels.copy()
    other[:, -1], others[:, 0] = 100.0, 4
    assert perplexity(other, others) == perplexity(outputs, labels)


def test_a_model_that_knows_nothing_hesitates_between_all_tokens() -> None:
    assert perplexity(np.zeros((3, 6, 17)), np.ones((3, 6), int)) == pytest.approx(17)


def test_a_loss_beyond_all_floats_is_infinite() -> None:
    outputs = np.zeros((1, 2, 2))
    outputs[0, 0, 0] = 1e5
    assert perplexity(outputs, np.ones((1, 2), int)) == math.inf


def test_nan_stays_nan() -> None:
    assert math.isnan(perplexity(np.full((1, 3, 2), np.nan), np.ones((1, 3), int)))


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int), r"here they are \[2, 3\] and \[2, 3\]"),
        (np.zeros((2, 3, 4)), np.zeros((2, 2), int), r"here they are \[2, 3, 4\] and \[2, 2\]"),
        (np.zeros((2, 3, 4)), np.full((2, 3), 4), "a label is 4, and the model's vocabulary has the tokens 0 to 3"),
        (np.zeros((2, 3, 4)), np.full((2, 3), -1), "a label is -1"),
    ],
)
def test_what_is_no_text_of_the_model_is_one_message(outputs: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next_tokens(outputs, labels)


def test_nothing_to_score_is_one_message() -> None:
    for tokens, label in ((1, 0), (4, IGNORED_LABEL)):
        with pytest.raises(UsageError, match="no token to score"):
            perplexity(np.zeros((2, tokens, 3)), np.full((2, tokens), label))
