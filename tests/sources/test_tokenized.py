import csv
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources import csv_table, jsonl, sentence_pairs, text_windows
from compressctl.sources.params import CsvParams, JsonlParams, SentencePairsParams, TextParams

pytest.importorskip("tokenizers")

from support.tiny_transformers import WORDS, write_tokenizer

ALL_TO_TEST = SplitSizes(test=1.0, validation=0, calibration=0)
IDS = {word: number for number, word in enumerate(WORDS, 4)}
CLS, SEP = 2, 3


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tokenizer(tmp_path / "model")
    return tmp_path


def write_csv(path: Path, *rows: tuple[str, ...]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_jsonl(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_csv(folder: Path, texts=("text",), sizes=ALL_TO_TEST, **fields):
    tokenize = {"tokenizer": "model", "texts": texts, **fields.pop("tokenize", {})}
    params = CsvParams.model_validate({"path": "d.csv", "label": "label", "tokenize": tokenize, **fields})
    return csv_table.load(params, sizes, folder, 0)


def of_jsonl(folder: Path, texts=("text",), **fields):
    tokenize = {"tokenizer": "model", "texts": texts, **fields.pop("tokenize", {})}
    params = JsonlParams.model_validate({"path": "d.jsonl", "label": "label", "tokenize": tokenize, **fields})
    return jsonl.load(params, ALL_TO_TEST, folder, 0)


def in_order(dataset, size: int = 100):
    """All of the test split, by position."""
    (batch,) = dataset.split("test").batches(size)
    order = np.argsort(batch.indices)
    return {name: array[order] for name, array in batch.inputs.items()}, batch.labels[order]


def test_texts_of_a_table_are_tokens_filled_up_to_the_longest_of_their_batch(folder):
    write_csv(folder / "d.csv", ("text", "label"), ("the cat sat", "good"), ("dog", "bad"))
    data = of_csv(folder)

    inputs, labels = in_order(data)
    assert inputs["input_ids"].tolist() == [
        [CLS, IDS["the"], IDS["cat"], IDS["sat"], SEP],
        [CLS, IDS["dog"], SEP, 0, 0],
    ]
    assert inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert (labels.tolist(), data.classes) == ([1, 0], ("bad", "good"))
    widths = {batch.inputs["input_ids"].shape[1] for batch in data.split("test").batches(1)}
    assert widths == {5, 3}


def test_texts_may_all_have_one_length_and_longer_ones_are_cut(folder):
    write_csv(folder / "d.csv", ("text", "label"), ("the cat sat on the mat", "a"), ("dog", "b"))
    inputs, _ = in_order(of_csv(folder, tokenize={"max_length": 4, "padding": "max_length"}))
    assert inputs["input_ids"].tolist() == [[CLS, IDS["the"], IDS["cat"], SEP], [CLS, IDS["dog"], SEP, 0]]


def test_pairs_have_types_and_padding_may_stand_on_the_left(folder):
    (folder / "model" / "tokenizer_config.json").write_text(
        json.dumps({"padding_side": "left", "pad_token": {"content": "[UNK]"}})
    )
    write_csv(folder / "d.csv", ("a", "b", "label"), ("the cat", "dog", "x"), ("dog", "cat", "y"))
    inputs, _ = in_order(of_csv(folder, texts=("a", "b")))
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert inputs["input_ids"][1].tolist() == [1, CLS, IDS["dog"], SEP, IDS["cat"], SEP]
    assert inputs["attention_mask"][1].tolist() == [0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("labels", "fields", "numbers", "classes"),
    [
        (("bad", "good"), {}, [1, 0], ("good", "bad")),
        (("bad", "good"), {"classes": ["bad", "good", "odd"]}, [0, 1], ("bad", "good", "odd")),
        (("1", "0"), {}, [1, 0], ("good", "bad")),
        (("7", "0"), {}, [7, 0], None),
        (("0.5", "2"), {"task": "regression"}, [0.5, 2.0], None),
    ],
)
def test_classes_are_the_models_where_its_config_names_them(folder, labels, fields, numbers, classes):
    (folder / "model" / "config.json").write_text(json.dumps({"id2label": {"1": "bad", "0": "good"}}))
    write_csv(folder / "d.csv", ("text", "label"), ("cat", labels[0]), ("dog", labels[1]))
    data = of_csv(folder, **fields)
    assert in_order(data)[1].tolist() == numbers
    assert data.classes == classes


def test_labels_that_the_models_config_does_not_name_are_not_put_in_an_order_of_their_own(folder):
    write_csv(folder / "d.csv", ("text", "label"), ("cat", "Neg"), ("dog", "pos"))
    config = folder / "model" / "config.json"
    config.write_text(json.dumps({"id2label": {"0": "positive", "1": "negative"}}))
    with pytest.raises(UsageError, match="'Neg' is none of the classes of the model"):
        of_csv(folder)
    config.write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert of_csv(folder).classes == ("Neg", "pos")


def test_an_empty_table_is_called_so(folder):
    (folder / "d.csv").write_bytes(b"")
    with pytest.raises(UsageError, match=r"d\.csv is empty"):
        of_csv(folder)


def test_words_with_a_label_each_have_it_at_their_first_token(folder):
    write_jsonl(
        folder / "d.jsonl",
        {"text": ["the", "cat sat", "mat"], "label": ["O", "B", "O"]},
        {"text": ["dog"], "label": ["B"]},
    )
    data = of_jsonl(folder)
    inputs, labels = in_order(data)
    assert data.classes == ("B", "O")
    assert inputs["input_ids"].shape == labels.shape == (2, 6)
    assert labels.tolist() == [[-100, 1, 0, -100, 1, -100], [-100, 0, -100, -100, -100, -100]]


JSONL = {
    "a number": ([{"text": 3, "label": 0}], "d.jsonl:1: '3' is not a text"),
    "words once": ([{"text": "a", "label": 0}, {"text": ["a"], "label": 0}], "d.jsonl:2: .* is not a text"),
    "no words": ([{"text": [], "label": []}], "d.jsonl:1"),
    "too few labels": ([{"text": ["a", "b"], "label": [1]}], "one for each of its words"),
    "no field": ([{"label": 1}], "d.jsonl:1: there is no field 'text'"),
    "mixed labels": ([{"text": "a", "label": "x"}, {"text": "a", "label": 3}], "d.jsonl:2: the label '3'"),
    "a list": ([{"text": "a", "label": [1]}], "is no number"),
    "negative": ([{"text": "a", "label": -1}], "negative class"),
    "fractions of words": ([{"text": ["a"], "label": [0.5]}], "whole numbers"),
}


@pytest.mark.parametrize("fault", JSONL)
def test_rows_that_are_no_texts_with_labels_are_named(folder, fault):
    rows, message = JSONL[fault]
    write_jsonl(folder / "d.jsonl", *rows)
    with pytest.raises(UsageError, match=message):
        of_jsonl(folder)


def test_labels_that_the_recipe_does_not_name_are_refused(folder):
    write_csv(folder / "d.csv", ("text", "label"), ("cat", "a"), ("dog", "z"))
    with pytest.raises(UsageError, match=r"d.csv:3: the label 'z' is not among data.classes"):
        of_csv(folder, classes=["a", "b"])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CsvParams, {"path": "d", "label": "l", "features": ["x"], "tokenize": {"tokenizer": "t", "texts": ["a"]}}),
        (CsvParams, {"path": "d", "label": "l", "task": "regression", "classes": ["a"]}),
        (JsonlParams, {"path": "d"}),
        (JsonlParams, {"path": "d", "inputs": ["x"], "tokenize": {"tokenizer": "t", "texts": ["a"]}}),
        (TextParams, {"files": ["a"], "tokenizer": "t", "window": 8, "stride": 9}),
        (TextParams, {"files": ["a"], "tokenizer": "t", "window": 2, "bos_token": "x"}),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_read(kind, fields):
    with pytest.raises(ValidationError):
        kind.model_validate(fields)


def test_pairs_with_a_similarity_may_keep_their_own_lengths(folder):
    (folder / "p.tsv").write_text("the cat\tdog\t1\ncat\tthe dog sat\t0\n")
    fields = {"path": "p.tsv", "columns": {"first": 0, "second": 1, "label": 2}, "tokenizer": "model"}
    data = sentence_pairs.load(
        SentencePairsParams.model_validate({**fields, "padding": "longest"}), ALL_TO_TEST, folder, 0
    )
    assert {batch.inputs["input_ids"].shape[1] for batch in data.split("test").batches(2)} == {4, 5}
    padded = sentence_pairs.load(
        SentencePairsParams.model_validate({**fields, "max_length": 9}), ALL_TO_TEST, folder, 0
    )
    assert {batch.inputs["input_ids"].shape for batch in padded.split("test").batches(2)} == {(2, 9)}


def windows(folder: Path, sizes: SplitSizes = ALL_TO_TEST, **fields):
    return text_windows.load(TextParams.model_validate({"tokenizer": "model", **fields}), sizes, folder, 0)


def text(count: int) -> str:
    return " ".join(WORDS[n % len(WORDS)] for n in range(count))


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_every_token_is_scored_once_whatever_the_stride(folder, stride):
    (folder / "t.txt").write_text(text(23))
    inputs, labels = in_order(windows(folder, files=["t.txt"], window=5, stride=stride))

    scored = [token for row in labels for token in row if token != -100]
    count = 5 + (23 - 5) // stride * stride
    assert scored == [IDS[WORDS[n % len(WORDS)]] for n in range(count)]
    assert (labels[labels != -100] == inputs["input_ids"][labels != -100]).all()


def test_a_first_token_stands_before_every_window_and_is_not_scored(folder):
    (folder / "t.txt").write_text(text(8))
    inputs, labels = in_order(windows(folder, files=["t.txt"], window=5, bos_token="[CLS]"))
    assert inputs["input_ids"][:, 0].tolist() == [CLS, CLS]
    assert labels[:, 0].tolist() == [-100, -100]
    assert inputs["input_ids"][:, 1:].reshape(-1).tolist() == [IDS[word] for word in text(8).split()]


def test_texts_of_the_test_split_are_their_own(folder):
    (folder / "t.txt").write_text(text(40))
    (folder / "other.txt").write_text(text(20)[::-1])
    data = windows(folder, SplitSizes(calibration=2, validation=2), files=["t.txt"], test_files=["other.txt"], window=4)
    assert [len(data.split(name)) for name in ("train", "validation", "calibration", "test")] == [
        6,
        2,
        2,
        len(text(20)[::-1].split()) // 4,
    ]


TEXTS = {
    "short": (b"the cat", {}, "fewer than a window"),
    "no UTF-8": (b"\xff\xfe\x00", {}, "no UTF-8"),
    "no such token": (b"the cat " * 20, {"bos_token": "<s>"}, "no token '<s>'"),
}


@pytest.mark.parametrize("fault", TEXTS)
def test_texts_that_cannot_be_windows_are_named(folder, fault):
    content, fields, message = TEXTS[fault]
    (folder / "t.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        windows(folder, files=["t.txt"], window=8, **fields)
