"""How long texts may be, as a model's folder says it. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.sources.json_lines import json_object

MODEL_CONFIG = "config.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
_USUAL = 128

LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names of the longest text in configs, by family."""

_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "ibert", "data2vec-text"})
"""Count positions from the padding token's number on, so that as many entries of the table are no text's."""

_TABLES = _FROM_PADDING | {"bert", "distilbert", "electra", "albert", "mobilebert", "convbert", "ernie", "splinter", "gpt2", "gpt_neo", "opt", "biogpt"}  # fmt: skip
"""Families whose positions are a learned table: nothing stands behind its end."""


def table_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest text that a learned table of positions has entries for; None where the config names no such family."""
    kind = config.get("model_type")
    known = next((config[name] for name in LENGTHS if isinstance(config.get(name), int)), None)
    if kind not in _TABLES or known is None or config.get("position_embedding_type", "absolute") != "absolute":
        return None
    if kind in _FROM_PADDING:
        padding = config.get("pad_token_id", 1)
        return int(known) - (padding if isinstance(padding, int) else 1) - 1
    return int(known)


def longest_text(given: int | None, tokenizer: Path) -> int:
    """Tokens of a sample: as given, else as a sentence encoder's own folder says, else 128, and never more than the model beside the tokenizer has
    positions for. tokenizer: the file. Raises UsageError where more are asked for."""
    config = _read(tokenizer.parent / MODEL_CONFIG)
    most = table_positions(config)
    if given is None:
        own = _read(tokenizer.parent / SENTENCE_CONFIG).get("max_seq_length")
        wanted = own if isinstance(own, int) and own > 0 else _USUAL
        return wanted if most is None else min(wanted, most)
    if most is not None and given > most:
        raise UsageError(
            f"max_length is {given:,} tokens, and the model of {tokenizer.parent / MODEL_CONFIG} has {most:,} positions",
            hint=f"give max_length: {most} or less, or leave it out",
        )
    return given


def _read(path: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read: whoever loads the model says so."""
    try:
        return json_object(path) if path.is_file() else {}
    except UsageError:
        return {}
