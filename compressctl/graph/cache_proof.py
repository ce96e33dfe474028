"""Whether a decoder with a cache still is the network that it was made of: both are run on the same text."""

from __future__ import annotations

import numpy as np
import onnx

from compressctl.core.errors import StageError
from compressctl.core.failures import refused_in
from compressctl.graph.cached_decoder import MASK, PAST, PRESENT, TOKENS, CachedDecoder
from compressctl.graph.open_axes import graph_inputs
from compressctl.graph.session import open_graph

_TOKENS, _MOST_TOKENS = 48, 512
_NEW = (1, 2)
"""Tokens of the last calls, after one with all before them."""
_FLOAT, _ROUNDED = 1e-3, 0.1
"""Root mean square of differences beside that of the logits. Rounded activations may fall on the other side where sums differ in their last
bit, and ranges that are taken from a whole call differ between calls."""


def prove(plain: onnx.ModelProto, decoder: CachedDecoder, vocabulary: int, longest: int, *, is_float: bool) -> None:
    """Run a text of random tokens through both, through the decoder in three calls. plain: what `with_cache` was given.

    vocabulary: tokens that the network knows. longest: text that it takes. Raises StageError where the logits differ, or the runtime refuses the decoder.
    """
    windows = [window for window in decoder.windows if window is not None and window < _MOST_TOKENS]
    length = min(max((_TOKENS, *(window + 8 for window in windows))), longest)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (1, length))
    ones = np.ones_like(tokens)
    given = {TOKENS: tokens, MASK: ones}
    try:
        session = open_graph(plain)
        names = {value.name for value in graph_inputs(plain.graph)}
        wanted = session.run(None, {name: value for name, value in given.items() if name in names})[0]
        found = _in_calls(decoder, tokens)
    except Exception as error:
        said = "ONNX Runtime does not run the decoder with a cache"
        raise refused_in(said, error) or StageError(f"{said}: {error}") from error
    apart = float(np.sqrt(np.mean((found - wanted) ** 2) / max(np.mean(wanted**2), 1e-30)))
    if not apart <= (_FLOAT if is_float else _ROUNDED):
        raise StageError(
            f"the decoder with a cache is not the network any more: on {length} random tokens its logits differ by {apart:.2%} of their size",
            hint="something in the network depends on earlier tokens beside its attention; export it without a bundle",
        )


def _in_calls(decoder: CachedDecoder, tokens: np.ndarray) -> np.ndarray:
    session = open_graph(decoder.proto)
    outputs = [output.name for output in session.get_outputs()]
    kept = {
        PAST.format(layer, kind): np.zeros((1, heads, 0, size), np.float32)
        for layer, (heads, size) in enumerate(zip(decoder.kv_heads, decoder.head_size, strict=True))
        for kind in ("key", "value")
    }
    logits, at = [], 0
    first = tokens.shape[1] - sum(_NEW)
    for count in (first, *_NEW) if first > 0 else (1,) * tokens.shape[1]:
        given = {TOKENS: tokens[:, at : at + count], MASK: np.ones((1, at + count), np.int64), **kept}
        values = dict(zip(outputs, session.run(None, given), strict=True))
        logits.append(values[outputs[0]])
        kept = {
            PAST.format(layer, kind): values[PRESENT.format(layer, kind)]
            for layer in range(len(decoder.kv_heads))
            for kind in ("key", "value")
        }
        at += count
    return np.concatenate(logits, 1)
