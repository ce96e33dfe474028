"""JSON lines: fields become arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressctl.core.data import Batch
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.jsonl import fingerprint, load
from compressctl.sources.params import JsonlParams

NONE = SplitSizes(validation=0, calibration=0, test=0)


def batches(folder: Path, rows: list[Any], **fields: Any) -> list[Batch]:
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load(JsonlParams.model_validate({"path": "d.jsonl", "inputs": ["x"], **fields}), NONE, folder, 0)
    return list(dataset.split("train").batches(16))


def test_numbers_and_lists_become_arrays_of_their_kind(tmp_path: Path) -> None:
    rows = [{"x": [n, n + 1], "deep": [[n / 2]], "y": n % 2} for n in range(4)]
    [batch] = batches(tmp_path, rows, inputs={"ids": "x", "f": "deep"}, label="y")
    assert (batch.inputs["ids"].dtype, batch.inputs["f"].dtype, batch.labels.dtype) == (np.int64, np.float32, np.int64)
    assert (batch.inputs["ids"].shape, batch.inputs["f"].shape) == ((4, 2), (4, 1, 1))
    assert np.array_equal(batch.inputs["ids"][:, 0] % 2, batch.labels)


def test_lists_of_many_lengths_come_one_by_one(tmp_path: Path) -> None:
    found = batches(tmp_path, [{"x": [1] * n} for n in (1, 2, 3)])
    assert sorted(batch.inputs["x"].shape for batch in found) == [(1, 1), (1, 2), (1, 3)]


def test_words_are_classes_or_text(tmp_path: Path) -> None:
    rows = [{"x": 1, "y": "b"}, {"x": 2, "y": "a"}]
    [batch] = batches(tmp_path, rows, label="y")
    assert dict(zip(batch.inputs["x"].tolist(), batch.labels.tolist(), strict=True)) == {1: 1, 2: 0}
    [batch] = batches(tmp_path, rows, label="y", text=True)
    assert dict(zip(batch.inputs["x"].tolist(), batch.labels.tolist(), strict=True)) == {1: "b", 2: "a"}


def test_a_field_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"d\.jsonl:2: there is no field 'x'"):
        batches(tmp_path, [{"x": 1}, {"z": 1}])


def test_contents_decide_the_fingerprint(tmp_path: Path) -> None:
    found = set()
    for text in ('{"x": 1}', '{"x": 2}'):
        (tmp_path / "d.jsonl").write_text(text)
        found.add(fingerprint(JsonlParams(path="d.jsonl", inputs=("x",)), tmp_path))
    assert len(found) == 2


def test_a_file_that_is_tested_and_trained_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"x": [1, 2], "label": 0}\n' * 20)
    params = JsonlParams(path="rows.jsonl", test_path="./rows.jsonl", inputs=("x",))
    with pytest.raises(UsageError, match=r"rows\.jsonl is in two of the data's own splits"):
        load(params, SplitSizes(), tmp_path, 0)
