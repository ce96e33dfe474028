"""How long texts are where a recipe does not say it."""

import json
from pathlib import Path

import pytest

from compressctl.core.errors import UsageError
from compressctl.sources.text_lengths import longest_text, table_positions

BERT = {"model_type": "bert", "max_position_embeddings": 64}


def _beside(folder: Path, config: object, own: object = None) -> Path:
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if own is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(own))
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("config", "own", "given", "tokens"),
    [
        (None, None, None, 128),
        (None, None, 300, 300),
        (BERT, None, None, 64),
        (BERT, None, 32, 32),
        ({**BERT, "max_position_embeddings": 512}, {"max_seq_length": 256}, None, 256),
        ({**BERT, "max_position_embeddings": 512}, {"max_seq_length": 32}, None, 32),
        (BERT, {"max_seq_length": 512}, None, 64),
        (BERT, {"max_seq_length": None}, None, 64),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, None, None, 64),
        ({"model_type": "llama", "max_position_embeddings": 64}, None, 100, 100),
        ({**BERT, "position_embedding_type": "relative_key"}, None, 100, 100),
        ("no json", None, None, 128),
    ],
)
def test_the_folder_says_how_long_texts_are(
    tmp_path: Path, config: object, own: object, given: int | None, tokens: int
) -> None:
    assert longest_text(given, _beside(tmp_path, config, own)) == tokens


def test_more_than_the_model_has_positions_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"max_length is 65 tokens, and the model of .* has 64 positions"):
        longest_text(65, _beside(tmp_path, BERT))


@pytest.mark.parametrize(
    ("name", "entries"), [("bert", 64), ("roberta", 62), ("gpt2", 64), ("opt", 64), ("llama", None)]
)
def test_tables_end_where_networks_fail(tmp_path: Path, name: str, entries: int | None) -> None:
    """Checked on the networks themselves: one token more is an error."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from support.tiny_transformers import network

    made = network(name)
    assert table_positions(made.config.to_dict()) == entries
    if entries is None:
        return
    ids = torch.full((1, entries + 1), 5)
    with torch.no_grad():
        made(ids[:, :-1])
        with pytest.raises((IndexError, RuntimeError)):
            made(ids)
