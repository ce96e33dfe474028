"""An open bundle as lm-eval asks language models: probabilities of continuations, of whole texts, and answers. Needs lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from scipy.special import log_softmax

from compressctl.core.bundle import BundleSession
from compressctl.core.errors import UsageError
from compressctl.sources.tokenizing import Tokenizer

_ANSWER = 256
"""Tokens of an answer at most, where the task does not say: lm-eval's own default. Half of the longest text where that is shorter."""

Tell = Callable[[int, int], None]
"""Takes how many requests are done, and of how many."""


class BundleModel(TemplateLM):  # type: ignore[misc]
    """prefix: the token before a text that has nothing before it. ends: any of them ends a text. longest: most tokens of a text."""

    def __init__(
        self, session: BundleSession, tokenizer: Tokenizer, prefix: int, ends: Sequence[int], longest: int, tell: Tell
    ) -> None:
        super().__init__()
        self._session, self._words, self._tell = session, tokenizer, tell
        self._prefix, self._ends, self._longest = prefix, frozenset(ends), longest

    @property
    def eot_token_id(self) -> int:
        """Read by nothing else than what `prefix_token_id` answers."""
        return self._prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        tokens: list[int] = self._words.running(string).tolist()
        opening = list(self._words.opening)
        is_opened = add_special_tokens is False or tokens[: len(opening)] == opening
        return tokens if is_opened else opening + tokens

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Any]:
        """Of each continuation behind its context: its log-probability, and whether each of its tokens is the likeliest."""
        found = []
        before: list[int] = []
        logits = np.zeros((0, 0), np.float32)
        for number, (_, context, continuation) in enumerate(requests):
            text = (context + continuation)[-(self._longest + 1) :]
            wanted = continuation[-(len(text) - 1) :]
            if text[:-1] != before:
                # Choices of one token each share it.
                before, logits = text[:-1], self._session.logits(text[:-1])
            rows = log_softmax(logits[-len(wanted) :].astype(np.float64), axis=-1)
            total = float(rows[np.arange(len(wanted)), wanted].sum())
            found.append((total, bool((rows.argmax(-1) == wanted).all())))
            self._tell(number + 1, len(requests))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, those that are too long in windows of which each token is scored once."""
        totals = []
        for request in requests:
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(tokens, self._prefix, self._longest, context_len=1)
            parts = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(total for total, _ in self._loglikelihood_tokens(parts)))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers without what ends them."""
        answers = []
        for number, request in enumerate(requests):
            context, settings = request.args
            answers.append(self._answer(context, settings))
            self._tell(number + 1, len(requests))
        return answers

    def _answer(self, context: str, settings: Mapping[str, Any]) -> str:
        check_greedy(settings)
        until = settings.get("until") or ()
        ends = [end for end in ((until,) if isinstance(until, str) else until) if end]
        most = max(1, min(int(settings.get("max_gen_toks", _ANSWER)), self._longest // 2))
        prompt = self.tok_encode(context)[-(self._longest - most) :] or [self._prefix]

        def is_complete(tokens: Sequence[int]) -> bool:
            text = self._words.text(tokens)
            return any(end in text for end in ends)

        tokens = self._session.answer(prompt, most, is_complete)
        text = self._words.text(
            tokens[: next((n for n, token in enumerate(tokens) if token in self._ends), len(tokens))]
        )
        return text[: min((text.find(end) for end in ends if end in text), default=len(text))]


def check_greedy(settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a task whose answers are drawn at random."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        raise UsageError(
            "it draws answers at random (do_sample), and bundles write the likeliest tokens",
            hint="take a task of your own with `do_sample: false`",
        )
