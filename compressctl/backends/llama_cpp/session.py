"""A GGUF file opened by llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.bundle import Continuation

_SHORTEST = 4096
"""Tokens that the cache has room for at least, where the network knows so many: it is allocated as a whole."""


class LlamaCppBundle:
    """A BundleSession of llama.cpp, whose cache is float32; logits come from a context of their own, on the same file."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self._tool, self._file, self._threads = llama_cpp, file, threads or None
        self._longest = _context_length(llama_cpp, file)
        self._writer = self._opened(0)
        self._scorer: Any = None
        vocabulary = self._writer._model.vocab
        self._ends = [n for n in range(self._writer.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, n)]

    def generate(self, prompt: Sequence[int], count: int) -> Continuation:
        started = time.perf_counter()
        tokens: list[int] = []
        first = started
        for token in self._written(prompt, count, self._ends):
            first = time.perf_counter() if not tokens else first
            tokens.append(token)
        return Continuation(tuple(tokens), first - started, time.perf_counter() - first)

    def answer(self, prompt: Sequence[int], most: int, is_complete: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
        tokens: list[int] = []
        for token in self._written(prompt, most, ()):
            tokens.append(token)
            if token in self._ends or is_complete(tokens):
                break
        return tuple(tokens)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        if self._scorer is None or self._scorer.n_ctx() < len(tokens):
            self._scorer = self._opened(len(tokens), logits_all=True)
        self._scorer.reset()
        self._scorer.eval(list(tokens))
        return np.array(self._scorer.scores[: len(tokens)])

    def _written(self, prompt: Sequence[int], count: int, banned: Sequence[int]) -> Iterator[int]:
        """Each the likeliest that is not banned, by llama.cpp's own samplers."""
        if self._writer.n_ctx() < len(prompt) + count:
            self._writer = self._opened(len(prompt) + count)
        writer = self._writer
        sampler = self._tool._internals.LlamaSampler()
        if banned:
            sampler.add_logit_bias(writer.n_vocab(), dict.fromkeys(banned, -np.inf))
        sampler.add_greedy()
        writer.reset()
        given = list(prompt)
        for _ in range(count):
            writer.eval(given)
            given = [int(sampler.sample(writer._ctx, -1))]
            yield given[0]
        sampler.close()

    def _opened(self, length: int, *, logits_all: bool = False) -> Any:
        tool = self._tool
        return tool.Llama(
            str(self._file),
            n_ctx=max(length, min(_SHORTEST, self._longest)),
            n_threads=self._threads,
            n_threads_batch=self._threads,
            type_k=tool.GGML_TYPE_F32,
            type_v=tool.GGML_TYPE_F32,
            logits_all=logits_all,
            verbose=False,
        )


def _context_length(tool: Any, file: Path) -> int:
    """Most tokens of a text, as the file says."""
    said = tool.Llama(str(file), vocab_only=True, verbose=False).metadata
    return int(said[f"{said['general.architecture']}.context_length"])
