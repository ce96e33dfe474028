"""A language model as a serving tool opens it: a folder with the decoder, its cache, its tokenizer and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.model import OnnxModel
    from compressctl.core.target import Target


@dataclass(frozen=True)
class ServedText:
    """What serving a language model needs beside its graph, from where the model came.

    folder: with the tokenizer. config: of the network, its names and values. files: what travels along as it is (tokenizer, chat
    template, configs). end_tokens: any of them ends a text. context_length: most tokens of a text, prompt included. window: how far
    back layers look that see only the nearest tokens, None where all see everything. notes: what its user must know. texts: (tokens,) int64
    each, by which a cache in 8 bits may be scaled.
    """

    folder: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    start_token: int | None
    end_tokens: tuple[int, ...]
    pad_token: int
    context_length: int
    vocabulary: int
    window: int | None = None
    notes: tuple[str, ...] = ()
    texts: tuple[np.ndarray, ...] = ()

    @property
    def looked_at(self) -> int:
        """Tokens of a text by which it is told how far back layers see: all that a text may have, as far as a table of their pairs is no burden."""
        window = 0 if self.window is None else self.window + _BEYOND
        return max(min(self.context_length, _MOST_LOOKED_AT), window)


_MOST_LOOKED_AT, _BEYOND = 4096, 8


@dataclass(frozen=True)
class Bundle:
    """backend: whose tool opens it. files: all that must travel, in folder. notes: what its user must know."""

    backend: str
    folder: Path
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Continuation:
    """tokens: that were generated. first_seconds: from the prompt to the first of them. rest_seconds: of all others together."""

    tokens: tuple[int, ...]
    first_seconds: float
    rest_seconds: float


class BundleSession(Protocol):
    """An open bundle, for one text at a time."""

    def generate(self, prompt: Sequence[int], count: int) -> Continuation:
        """Exactly so many tokens, each the likeliest, by the serving tool itself; what ends a text does not end it."""
        ...

    def answer(self, prompt: Sequence[int], most: int, is_complete: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
        """At most so many tokens, each the likeliest, by the serving tool itself, until all of them together are complete or the text ends."""
        ...

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """(tokens, vocabulary) float32 of one text, by the file in the bundle."""
        ...


class Bundler(Protocol):
    """What a BackendSpec names under `bundle`: an instance of this.

    tool: what opens its bundles, as in "ONNX Runtime GenAI". package: the distribution that brings it.
    """

    tool: str
    package: str

    def check(self, model: OnnxModel, target: Target, text: ServedText) -> None:
        """What `write` would refuse of a float network and its tokenizer, before any work on it."""
        ...

    def write(self, model: OnnxModel, target: Target, text: ServedText, folder: Path) -> Bundle:
        """Into a folder that exists and is empty. Raises StageError for a model that the tool could not serve."""
        ...

    def open(self, folder: Path, threads: int) -> BundleSession:
        """threads: 0 means all, where the bundle itself does not say."""
        ...

    def warm_up(self) -> None:
        """Import the tool, so that what opening takes afterwards is the bundle's."""
        ...
