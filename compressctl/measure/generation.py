"""Bundles measured: perplexity of their files, and what their tools take to the first token, a token, and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.bundle import Bundle, ServedText
from compressctl.core.data import Split
from compressctl.core.errors import StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.machine import installed_version
from compressctl.core.registry import load
from compressctl.measure.alone import timing_alone
from compressctl.measure.child_process import ChildProcess
from compressctl.measure.latency import speedup
from compressctl.measure.results import BundleResult, Continuations, FirstToken, Generation, Memory
from compressctl.numerics.next_token import counted_logits, next_token_losses
from compressctl.sources.language_model import labels_of, tokens_of
from compressctl.tasks.perplexity import perplexity

_SHORT, _LONG = 32, 512
"""Tokens of the two prompts whose first token is timed, at most a quarter and half of the longest text."""
_DECODED = 64
"""Tokens in a row whose time is taken, at most a quarter of the longest text."""
_PROMPTS = 16
"""Texts that both bundles continue."""
_FULL = 4096
"""Most tokens to which a text is brought for its memory: on a processor, longer prompts take minutes."""


@dataclass(frozen=True)
class Rounds:
    """How long to time. launches: fresh processes, each with so many rounds."""

    launches: int
    rounds: int


STANDARD, QUICK = Rounds(6, 3), Rounds(2, 2)


@dataclass(frozen=True)
class Texts:
    """samples: tokens and labels, (tokens,) int64 each, of the split that reports. are_random: where there are no data."""

    samples: tuple[tuple[np.ndarray, np.ndarray], ...]
    are_random: bool = False

    def prompt(self, number: int, length: int) -> np.ndarray:
        """So many tokens from the start of a text, of the next ones where it is shorter."""
        tokens: list[int] = []
        while len(tokens) < length:
            tokens.extend(self.samples[number % len(self.samples)][0].tolist())
            number += 1
        return np.array(tokens[:length], np.int64)


def texts_of(split: Split | None, vocabulary: int, longest: int) -> Texts:
    """Without padding. Random tokens where there is no split. Raises UsageError for samples of more than `longest` tokens."""
    if split is None or len(split) == 0:
        random = np.random.default_rng(0).integers(0, vocabulary, (_PROMPTS, 64))
        return Texts(tuple((row, row) for row in random), are_random=True)
    found = []
    for batch in split.batches(1):
        tokens, labels = tokens_of(batch.inputs), labels_of(batch)
        if tokens is None or labels is None:
            raise StageError("the data give no tokens, which bundles are measured on")
        mask = batch.inputs.get("attention_mask")
        is_real = np.ones(tokens.shape[1], bool) if mask is None else np.asarray(mask[0]) != 0
        if is_real.sum() > longest:
            raise UsageError(
                f"the data's samples have {is_real.sum():,} tokens, and a text of the bundle has {longest:,} at most",
                hint="make them shorter, as with data.window",
            )
        if is_real.sum() > 1:
            found.append((tokens[0][is_real].astype(np.int64), labels[0][is_real]))
    return Texts(tuple(found)) if found else texts_of(None, vocabulary, longest)


def measure_bundles(
    baseline: Bundle,
    compressed: Bundle,
    bundler: str,
    texts: Texts,
    text: ServedText,
    threads: int,
    rounds: Rounds | None,
    root: Path,
    events: Events,
) -> BundleResult:
    """bundler: `"module:attribute"` of what opens them. rounds: None where nothing shall be timed. root: the run's folder.

    Raises StageError where the tool refuses a bundle, and CrashError where it ends the process.
    """
    tool = load(bundler)
    both = [_Opener(bundle, bundler, tool.tool, threads) for bundle in (baseline, compressed)]
    found = [Generation(size_bytes=one.bundle.size_bytes) for one in both]
    result = BundleResult(
        tool=tool.tool,
        version=installed_version(tool.package),
        folder=str(compressed.folder.relative_to(root)),
        threads=threads,
        baseline=found[0],
        compressed=found[1],
        prompts="random" if texts.are_random else "data",
        notes=compressed.notes,
    )
    with ExitStack() as stack:
        served = [stack.enter_context(one.opened()) for one in both]
        result = _continued(result, served, texts, text.context_length)
        if not texts.are_random:
            result = _scored(result, served, texts, events)
    return result if rounds is None else _timed(result, both, texts, text.context_length, rounds, events)


@dataclass(frozen=True)
class _Opener:
    bundle: Bundle
    code: str
    tool: str
    threads: int

    def opened(self) -> _Served:
        return _Served(self)


class _Served:
    """A bundle in a process of its own."""

    def __init__(self, what: _Opener) -> None:
        self._what = what
        self._process = ChildProcess("compressctl.measure.generation_worker")
        self._ask({"open": str(what.bundle.folder), "bundle": what.code, "threads": what.threads}, "opening")

    def generate(self, prompt: np.ndarray, count: int) -> tuple[np.ndarray, float, float]:
        """The tokens, and seconds to the first and from there to the last."""
        answer, arrays = self._ask({"generate": count}, "generating with", {"tokens": prompt})
        return arrays["tokens"], float(answer["first"]), float(answer["rest"])

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return self._ask({"logits": True}, "running", {"tokens": tokens})[1]["logits"]

    def memory(self) -> Memory:
        found, _ = self._ask({"memory": True}, "serving")
        return Memory(before_bytes=found["before"], load_peak_bytes=found["loaded"], run_peak_bytes=found["now"])

    def _ask(
        self, question: dict[str, Any], doing: str, arrays: dict[str, np.ndarray] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        name = self._what.bundle.folder.name
        self._process.tell(question, arrays)
        answer, given = self._process.hear(f"{doing} the bundle {name}", self._what.bundle.backend)
        if "error" in answer:
            raise StageError(
                f"{self._what.tool} failed {doing} the bundle {name}: {answer['error']}", hint=answer["hint"]
            )
        return answer, given

    def __enter__(self) -> _Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()


def _continued(result: BundleResult, served: Sequence[_Served], texts: Texts, longest: int) -> BundleResult:
    length, count = min(_SHORT, longest // 4), min(_SHORT, longest // 4)
    same = agreed = 0
    prompts = min(_PROMPTS, len(texts.samples))
    for number in range(prompts):
        prompt = texts.prompt(number, length)
        first, second = (one.generate(prompt, count)[0] for one in served)
        differ = np.flatnonzero(first != second)
        same += len(differ) == 0
        agreed += int(differ[0]) if len(differ) else count
    found = Continuations(prompts=prompts, tokens=count, same=same, same_tokens=agreed / (prompts * count))
    return result.model_copy(update={"continuations": found})


def _scored(result: BundleResult, served: Sequence[_Served], texts: Texts, events: Events) -> BundleResult:
    """Perplexity of both, and how far their probabilities lie apart, over the same tokens."""
    losses, counted, divergence, same = np.zeros(2), 0, 0.0, 0
    for number, (tokens, labels) in enumerate(texts.samples):
        logits = [one.logits(tokens)[None] for one in served]
        wanted = labels[None]
        for position, one in enumerate(logits):
            losses[position] += next_token_losses(one, wanted)[0]
        for before, after, following in counted_logits(logits[0], logits[1], wanted):
            divergence += float((np.exp(before) * (before - after)).sum())
            same += int((before.argmax(-1) == after.argmax(-1)).sum())
            counted += len(following)
        events.progress("scoring bundles", number + 1, len(texts.samples))
    if counted == 0:
        return result
    scored = [
        one.model_copy(update={"perplexity": perplexity.value(np.array([loss, counted])), "scored_tokens": counted})
        for one, loss in zip((result.baseline, result.compressed), losses, strict=True)
    ]
    found = {
        "divergence": max(divergence / counted, 0.0),
        "same_next": same / counted,
        "scored_texts": len(texts.samples),
        "longest_text": max(len(tokens) for tokens, _ in texts.samples),
    }
    return result.model_copy(update={"baseline": scored[0], "compressed": scored[1], **found})


def _timed(
    result: BundleResult, both: Sequence[_Opener], texts: Texts, longest: int, rounds: Rounds, events: Events
) -> BundleResult:
    """In fresh processes that did nothing else, in turns."""
    lengths = sorted({max(1, min(_SHORT, longest // 4)), max(1, min(_LONG, longest // 2))})
    count = max(2, min(_DECODED, longest // 4))
    asked = [(lengths[0], count), *((length, 1) for length in lengths[1:])]
    firsts: list[list[list[np.ndarray]]] = [[[] for _ in asked] for _ in both]
    decoded: list[list[np.ndarray]] = [[] for _ in both]
    memories: list[Memory] = []
    full = min(longest, _FULL)
    with timing_alone():
        for launch in range(rounds.launches):
            with ExitStack() as stack:
                served = [stack.enter_context(one.opened()) for one in both]
                taken = _launch(served, texts, asked, rounds.rounds)
                for position in range(len(both)):
                    for number in range(len(asked)):
                        firsts[position][number].append(taken[position, number, :, 0])
                    decoded[position].append(taken[position, 0, :, 1] / (count - 1))
                if launch == 0:
                    for one in served:
                        one.generate(texts.prompt(0, full - 2), 2)
                    memories = [one.memory() for one in served]
            events.progress("timing bundles", launch + 1, rounds.launches)
    timed = []
    for position, untimed in enumerate((result.baseline, result.compressed)):
        first = tuple(
            FirstToken(
                prompt_tokens=length,
                median_ms=1e3 * float(np.median(np.concatenate(firsts[position][number]))),
                speed=speedup(firsts[0][number], firsts[position][number]) if position else None,
            )
            for number, (length, _) in enumerate(asked)
        )
        timed.append(
            untimed.model_copy(
                update={
                    "first_token": first,
                    "decoded_tokens": count - 1,
                    "tokens_per_second": 1 / float(np.median(np.concatenate(decoded[position]))),
                    "speed": speedup(decoded[0], decoded[position]) if position else None,
                    "memory": memories[position],
                    "full_context_tokens": full,
                }
            )
        )
    return result.model_copy(update={"baseline": timed[0], "compressed": timed[1]})


def _launch(served: Sequence[_Served], texts: Texts, asked: Sequence[tuple[int, int]], rounds: int) -> np.ndarray:
    """(bundles, prompts, rounds, 2) seconds: to the first token, and from there to the last. A first round goes untimed."""
    taken = np.zeros((len(served), len(asked), rounds + 1, 2))
    for round_ in range(rounds + 1):
        order = list(range(len(served)))
        for position in order if round_ % 2 == 0 else reversed(order):
            for number, (length, count) in enumerate(asked):
                _, first, rest = served[position].generate(texts.prompt(round_, length), count)
                taken[position, number, round_] = first, rest
    return taken[:, :, 1:]
