"""What serving a language model needs of its folder: tokenizer, chat template, special tokens, the longest text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressctl.core.bundle import ServedText
from compressctl.core.errors import UsageError
from compressctl.sources.huggingface.folder import CONFIG, find, read_object
from compressctl.sources.params import HuggingFaceParams
from compressctl.sources.text_lengths import LENGTHS

_TRAVELS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip
_LONGEST_WINDOW = 8192
_WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_chunk_size", "local_attention")


def served_text(params: HuggingFaceParams, base: Path) -> ServedText:
    """Raises UsageError where the folder has no tokenizer.json, or does not say how long texts may be or what ends them."""
    folder = find(params, base)
    config = read_object(folder / CONFIG)
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"{folder} has no tokenizer.json, without which a bundle cannot read text",
            hint="load the tokenizer with transformers' AutoTokenizer and save_pretrained it there: that writes one",
        )
    generation = read_object(folder / "generation_config.json")
    named = _special_tokens(folder)

    def token(kind: str) -> Any:
        """generation_config.json first: it is what generating reads."""
        said = generation.get(f"{kind}_token_id", config.get(f"{kind}_token_id"))
        return named.get(kind) if said is None else said

    length: Any = known_positions(params, base)
    if length is None or length < 2:
        raise UsageError(f"{folder / CONFIG} does not say how long a text may be", hint=f"add {LENGTHS[0]}")
    window = _window(config)
    if window is not None and window > _LONGEST_WINDOW:
        # Up to there all layers see everything, and nobody need find out how far they see beyond.
        length, window = min(length, window), None
    notes: tuple[str, ...] = ()
    short = _short_tables(config)
    if short is not None and short < length:
        notes = (
            f"texts of at most {short:,} tokens: the network turns longer ones by other tables from their first token on (longrope), which keys "
            "that are kept cannot follow",
        )
        length = short
    start, ends, pad = token("bos"), token("eos"), token("pad")
    ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    if not ends or not all(isinstance(end, int) for end in ends):
        raise UsageError(
            f"{folder} does not say which token ends a text", hint="add eos_token_id to its generation_config.json"
        )
    return ServedText(
        folder,
        config,
        tuple(folder / name for name in _TRAVELS if (folder / name).is_file()),
        start if isinstance(start, int) else None,
        ends,
        pad if isinstance(pad, int) else ends[0],
        length,
        int(config.get("vocab_size", 0)),
        window,
        notes,
    )


def known_positions(params: HuggingFaceParams, base: Path) -> int | None:
    """Tokens of the longest text that the folder's config knows positions for; None where it does not say."""
    config = read_object(find(params, base) / CONFIG)
    return next((config[name] for name in LENGTHS if isinstance(config.get(name), int)), None)


def _window(config: Mapping[str, Any]) -> int | None:
    """How far back layers look that see the nearest tokens alone, where the config has such."""
    widths = [config.get(name) for name in _WINDOWS]
    found = [width for width in widths if isinstance(width, int) and width > 0]
    return max(found) if found and config.get("use_sliding_window", True) else None


def _short_tables(config: Mapping[str, Any]) -> int | None:
    """The longest text that a network with tables of two kinds (LongRoPE, Ding et al. 2024) turns by the first kind; None for others."""
    if not any("longrope" in (part.get("rope_type"), part.get("type")) for part in _objects(config)):
        return None
    lengths = (part.get("original_max_position_embeddings") for part in _objects(config))
    return next((length for length in lengths if isinstance(length, int) and length > 1), None)


def _objects(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A config and what is nested in it."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from _objects(value)


def _special_tokens(folder: Path) -> dict[str, int]:
    """bos, eos and pad as the tokenizer numbers them."""
    added = read_object(folder / "tokenizer.json").get("added_tokens")
    numbers = {
        entry["content"]: entry["id"]
        for entry in (added if isinstance(added, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and isinstance(entry.get("id"), int)
    }
    settings = read_object(folder / "tokenizer_config.json")
    texts = {kind: settings.get(f"{kind}_token") for kind in ("bos", "eos", "pad")}
    return {
        kind: numbers[content]
        for kind, text in texts.items()
        if (content := text.get("content") if isinstance(text, dict) else text) in numbers
    }
