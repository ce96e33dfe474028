"""Recognised text: read off scores or tokens, character and word error, strings against the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.core.tasks import Decode, Tally
from compressctl.tasks.alphabet import letters_of, tokens_of
from compressctl.tasks.metric_specs import TEXT_EVALUATOR
from compressctl.tasks.output_named import output_named
from compressctl.tasks.params import CtcParams, TokenTextParams

AXES = {"ntc": (0, 1, 2), "tnc": (1, 0, 2), "nct": (0, 2, 1)}


def ctc(params: CtcParams, base: Path) -> Decode:
    """Greedy: the likeliest class of each step, repeats collapsed, blanks left out (Graves et al. 2006, section 3.2)."""
    alphabet = [*letters_of(params.alphabet, base), *([" "] if params.space else [])]

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[str]:
        scores = _of_three_axes(output_named(outputs, params.output)).transpose(AXES[params.axes])
        letters = with_blank(alphabet, scores.shape[2], params.blank)
        steps = scores.argmax(axis=2)
        ends = _lengths(outputs, params.lengths, steps)
        blank = params.blank % scores.shape[2]
        return [
            "".join(letters[step] for step, _ in groupby(row[:end].tolist()) if step != blank)
            for row, end in zip(steps, ends, strict=True)
        ]

    return decode


def tokens(params: TokenTextParams, base: Path) -> Decode:
    """Token after token, (n, steps) ids or (n, steps, vocabulary) scores, up to the end token."""
    vocabulary = tokens_of(params.vocabulary, base)
    known = {token: number for number, token in enumerate(vocabulary)}
    end = _token(params.end, known) if params.end is not None else None
    left_out = {_token(token, known) for token in params.skip}

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[str]:
        found = output_named(outputs, params.output)
        if found.dtype.kind == "f" and found.ndim == 3:
            found = found.argmax(axis=2)
        if found.ndim != 2 or found.dtype.kind not in "iu":
            raise UsageError(
                f"tokens are (n, steps) whole numbers or (n, steps, vocabulary) scores, the output is {found.dtype} {list(found.shape)}",
                hint="name the output in `decode: {use: sequence, output: NAME}`, or write a decoder of your own",
            )
        ends = _lengths(outputs, params.lengths, found)
        return [_joined(row[:stop].tolist()) for row, stop in zip(found, ends, strict=True)]

    def _joined(row: list[int]) -> str:
        row = row[: row.index(end)] if end in row else row
        unknown = next((number for number in row if not 0 <= number < len(vocabulary)), None)
        if unknown is not None:
            raise UsageError(f"the model gives token {unknown}, and the vocabulary has {len(vocabulary)} tokens")
        text = params.joiner.join(vocabulary[number] for number in row if number not in left_out)
        return text if params.word_mark is None else text.replace(params.word_mark, " ").strip()

    return decode


def _of_three_axes(scores: np.ndarray) -> np.ndarray:
    """Without the axis that stands for a batch which the file does not name: (1, time, 1, classes)."""
    if scores.ndim == 4 and scores.shape[0] == 1 and 1 in scores.shape[1:3]:
        only: np.ndarray = scores[0]
        return only
    if scores.ndim != 3:
        raise UsageError(
            f"scores of steps are (n, time, classes), and the output is {list(scores.shape)}",
            hint="name the output in `decode: {use: ctc, output: NAME}`, or write a decoder of your own",
        )
    return scores


def with_blank(alphabet: list[str], classes: int, blank: int) -> list[str]:
    """A letter for each class. The alphabet may leave the blank out."""
    if not -classes <= blank < classes:
        raise UsageError(f"the blank is class {blank}, and the output has {classes} classes")
    if len(alphabet) == classes:
        return alphabet
    if len(alphabet) + 1 == classes:
        at = blank % classes
        return [*alphabet[:at], "", *alphabet[at:]]
    raise UsageError(
        f"the alphabet has {len(alphabet)} letters and the output {classes} classes: one for each, and one for the blank",
        hint="check `decode.alphabet`; `space: true` adds a space at its end, `axes` says where classes stand",
    )


def _lengths(outputs: Mapping[str, np.ndarray], name: str | None, steps: np.ndarray) -> np.ndarray:
    """(n,) steps that count."""
    if name is None:
        return np.full(len(steps), steps.shape[1])
    lengths: np.ndarray = output_named(outputs, name).reshape(-1)
    if len(lengths) != len(steps) or lengths.dtype.kind not in "iu" or (lengths.size and lengths.min() < 0):
        raise UsageError(
            f"{name} does not hold a length for each of {len(steps)} samples: {lengths.dtype} {list(lengths.shape)}"
        )
    return lengths


def _token(token: str | int, known: Mapping[str, int]) -> int:
    if isinstance(token, int):
        return token
    if token not in known:
        raise UsageError(f"the vocabulary has no token {token!r}", hint="give its number, or another vocabulary")
    return known[token]


_LARGEST_SCORED = 1 << 34
"""Pairs of characters of one sample, for which jiwer takes some four seconds."""


def cer(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Characters to change, add and remove, in percent of the labels' characters, over all samples together.

    NaN where labels hold none, and results do: there is nothing of which they would be a share.
    """
    return _error_rate(_jiwer().cer, outputs, labels)


def wer(outputs: np.ndarray, labels: np.ndarray) -> float:
    """The same of words, which blanks separate."""
    return _error_rate(_jiwer().wer, outputs, labels)


def exact(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Percent of samples whose string is the label's."""
    pairs = zip(_strings(outputs, "result"), _strings(labels, "label"), strict=True)
    return float(100 * np.mean([found == wanted for found, wanted in pairs])) if len(labels) else np.nan


def _error_rate(rate: Callable[[list[str], list[str]], float], outputs: np.ndarray, labels: np.ndarray) -> float:
    wanted, found = _not_too_long(_strings(labels, "label"), _strings(outputs, "result"))
    if not any(map(str.strip, wanted)) and any(map(str.strip, found)):
        return np.nan
    return float(100 * rate(wanted, found))


def _strings(values: np.ndarray, what: str) -> list[str]:
    found: list[str] = values.tolist()
    other = next((value for value in found if not isinstance(value, str)), None)
    if other is not None:
        raise ValueError(f"text is scored, and a {what} is of type {type(other).__name__}")
    return found


def _not_too_long(wanted: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """Time grows with the product. Raises ValueError."""
    for position, (label, result) in enumerate(zip(wanted, found, strict=True)):
        if len(label) * len(result) > _LARGEST_SCORED:
            raise ValueError(
                f"sample {position} has {len(result):,} characters, and {len(label):,} in its label: too many to compare"
            )
    return wanted, found


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise MissingDependencyError("character and word error", *TEXT_EVALUATOR) from error
    return jiwer


class Strings:
    unit = "strings"
    rule = "equal text"

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        return results

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        """What has no text is none of the original's strings; text there is an added one."""
        pairs = list(zip(_strings(before, "result"), _strings(after, "result"), strict=True))
        texts = [(old, new) for old, new in pairs if old]
        edits = [_edits(old, new) for old, new in pairs]
        return Tally(
            reference=len(texts),
            kept=sum(old == new for old, new in texts),
            added=sum(bool(new) and not old for old, new in pairs),
            equal_samples=sum(old == new for old, new in pairs),
            by_class={},
            edits=None if None in edits else sum(count or 0 for count in edits),
            characters=sum(len(old) for old, _ in pairs),
        )


_LARGEST_TABLE = 1 << 31
"""Pairs of letters that are compared: two texts of 46,000 letters each take some two seconds."""

_MOST_MASKS = 1 << 28
"""Bits of the masks below, all letters together."""


def _edits(old: str, new: str) -> int | None:
    """Levenshtein's distance; None where the texts are too long.

    A column of its table at once, as bits of what each cell has more or less than the one above: Myers 1999, as Hyyrö 2003 writes it.
    """
    pairs = enumerate(zip(old, new, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
    old, new = old[same:], new[same:]
    if not old or not new:
        return len(old) + len(new)
    shared = set(old) & set(new)
    if len(old) * len(new) > _LARGEST_TABLE or len(old) * len(shared) > _MOST_MASKS:
        return None
    letters = np.array([ord(letter) for letter in old])
    places = {letter: _as_bits(letters == ord(letter)) for letter in shared}
    last, every = 1 << (len(old) - 1), (1 << len(old)) - 1
    more, less, count = every, 0, len(old)
    for letter in new:
        equal = places.get(letter, 0) | less
        diagonal = (((equal & more) + more) ^ more) | equal
        right_more, right_less = less | (every & ~(diagonal | more)), diagonal & more
        count += bool(right_more & last) - bool(right_less & last)
        right_more, right_less = right_more << 1 | 1, right_less << 1
        more, less = every & (right_less | ~(diagonal | right_more)), every & right_more & diagonal
    return count


def _as_bits(marks: np.ndarray) -> int:
    """The first one is the lowest."""
    return int.from_bytes(np.packbits(marks, bitorder="little").tobytes(), "little")


STRINGS = Strings()
