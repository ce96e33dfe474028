"""A tokenizer.json as the keys of a GGUF file, for byte pairs over bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.errors import StageError
from compressctl.core.regular_files import read_regular

_MOST_BYTES = 1 << 28
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Source: llama.cpp, include/llama.h, llama_token_type."""
_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""Names in llama.cpp of the expressions that Llama 3 and Qwen 2 split texts by before pairs are joined."""


@dataclass(frozen=True)
class Vocabulary:
    """kinds: of tokens, as llama.cpp numbers them. split: its name of the way that texts are split before pairs are joined."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    split: str


def read_vocabulary(tokenizer: Path, size: int) -> Vocabulary:
    """size: tokens that the network has numbers for. Raises StageError for tokenizers of other kinds."""
    found: dict[str, Any] = json.loads(read_regular(tokenizer, _MOST_BYTES))
    model = found.get("model") or {}
    if (
        model.get("type") != "BPE"
        or model.get("byte_fallback")
        or found.get("normalizer") not in (None, {"type": "NFC"})
    ):
        raise _other(tokenizer, "it joins no pairs of bytes (SentencePiece, words or pieces of words)")
    split = _split(found.get("pre_tokenizer") or {})
    if split is None:
        raise _other(tokenizer, "it splits texts in a way that has no name in llama.cpp")
    numbers: dict[str, int] = dict(model["vocab"])
    kinds = dict.fromkeys(numbers.values(), _NORMAL)
    for added in found.get("added_tokens") or ():
        numbers[added["content"]] = added["id"]
        kinds[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    names = {number: name for name, number in numbers.items()}
    if max(names) >= size:
        raise _other(tokenizer, f"it has the token {max(names)}, and the network has {size}")
    # Numbers without a token: networks have some more than tokenizers.
    tokens = tuple(names.get(number, f"[PAD{number}]") for number in range(size))
    merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    return Vocabulary(tokens, tuple(kinds.get(number, _UNUSED) for number in range(size)), merges, split)


def _split(step: Mapping[str, Any]) -> str | None:
    if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
        return "gpt-2" if step.get("use_regex", True) else None
    steps = step.get("pretokenizers") if step.get("type") == "Sequence" else None
    if not steps or [one.get("type") for one in steps] != ["Split", "ByteLevel"] or steps[1].get("use_regex", True):
        return None
    return _SPLITS.get((steps[0].get("pattern") or {}).get("Regex", ""))


def _other(tokenizer: Path, why: str) -> StageError:
    return StageError(f"{tokenizer} cannot be stored in a GGUF file: {why}", hint="`bundle: genai` takes it as it is")
