"""How well a language model foresees the next token."""

from __future__ import annotations

import math

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.numerics.next_token import next_token_losses


class Perplexity:
    """exp of the mean cross-entropy of each token given those before it: how many tokens it hesitates between, 1 is perfect.

    Computed in float64 over all tokens that count, each with the same weight whatever the length of its sample. See
    `numerics/next_token.py` for which logits are held against which label. Source: Jelinek et al. 1977, "Perplexity: a measure
    of the difficulty of speech recognition tasks".
    """

    def __call__(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """outputs: (n, tokens, vocabulary) logits. labels: (n, tokens) tokens, -100 where one does not count."""
        return self.value(self.totals(outputs, labels))

    def totals(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(2,) float64, which add up over batches: cross-entropy in nats, and tokens."""
        return np.array(next_token_losses(outputs, labels), np.float64)

    def value(self, totals: np.ndarray) -> float:
        """inf where the mean loss is above 709 nats. Raises UsageError when no token counts."""
        loss, tokens = float(totals[0]), float(totals[1])
        if tokens == 0:
            raise UsageError(
                "there is no token to score: each follows another one, and neither may be padding or have the label -100"
            )
        try:
            return math.exp(loss / tokens)
        except OverflowError:
            return math.inf


perplexity = Perplexity()
