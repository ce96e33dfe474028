from pathlib import Path

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.csv_table import load
from compressctl.sources.params import CsvParams

SIZES = SplitSizes(validation=4, calibration=4, test=4)


def table(folder: Path, rows: int = 30, name: str = "data.csv", delimiter: str = ",") -> np.ndarray:
    values = np.random.default_rng(rows).normal(5, 3, (rows, 2))
    lines = [f"{a!r}{delimiter}{b!r}{delimiter}{'cat' if a > b else 'dog'}" for a, b in values.tolist()]
    (folder / name).write_text(delimiter.join(["height", "width", "kind"]) + "\n" + "\n".join(lines) + "\n")
    return values


def params(**fields) -> CsvParams:
    return CsvParams.model_validate({"path": "data.csv", "label": "kind", **fields})


def all_of(dataset, name: str = "train"):
    return next(dataset.split(name).batches(1000))


def test_features_are_standardized_by_the_train_split_alone(tmp_path):
    values = table(tmp_path)
    dataset = load(params(), SIZES, tmp_path, 0)
    train, test = all_of(dataset), all_of(dataset, "test")
    mean, deviation = values[train.indices].mean(0), values[train.indices].std(0)
    np.testing.assert_allclose(train.inputs["input"], (values[train.indices] - mean) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(test.inputs["input"], (values[test.indices] - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_classes_are_the_names_in_the_label_column(tmp_path):
    values = table(tmp_path)
    dataset = load(params(), SIZES, tmp_path, 0)
    batch = all_of(dataset)
    assert dataset.classes == ("cat", "dog")
    assert np.array_equal(batch.labels, (values[batch.indices, 0] <= values[batch.indices, 1]).astype(np.int64))


def test_regression_predicts_numbers(tmp_path):
    values = table(tmp_path)
    dataset = load(params(label="width", features=["height"], task="regression", standardize=False), SIZES, tmp_path, 0)
    batch = all_of(dataset)
    assert dataset.classes is None
    assert batch.labels.dtype == np.float32
    np.testing.assert_allclose(batch.labels, values[batch.indices, 1], rtol=1e-6)
    np.testing.assert_allclose(batch.inputs["input"], values[batch.indices, :1], rtol=1e-6)


def test_numbers_as_classes_are_sorted_as_numbers(tmp_path):
    (tmp_path / "data.csv").write_text("x,kind\n" + "\n".join(f"{n},{n % 12}" for n in range(40)))
    assert load(params(), SIZES, tmp_path, 0).classes == tuple(str(number) for number in range(12))


def test_a_second_file_is_the_test_split(tmp_path):
    table(tmp_path)
    table(tmp_path, rows=6, name="test.csv")
    dataset = load(params(test_path="test.csv"), SplitSizes(calibration=5), tmp_path, 0)
    assert all_of(dataset, "test").indices.tolist() == list(range(30, 36))


def test_another_delimiter(tmp_path):
    table(tmp_path, delimiter=";")
    assert all_of(load(params(delimiter=";"), SIZES, tmp_path, 0)).inputs["input"].shape[1] == 2


def test_a_column_that_never_changes_becomes_zero(tmp_path):
    (tmp_path / "data.csv").write_text("x,c,kind\n" + "\n".join(f"{n},7,a" for n in range(40)))
    assert (all_of(load(params(), SIZES, tmp_path, 0)).inputs["input"][:, 1] == 0).all()


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("x,kind\n1,a\nabc,b\n", {}, r"data\.csv:3: column 'x': 'abc' is not a number"),
        ("x,kind\n1,a\n,b\n", {}, r"data\.csv:3: column 'x': the value is missing"),
        ("x,kind\n1,a\nnan,b\n", {}, r"data\.csv:3: column 'x': 'nan' is not a number"),
        ("x,kind\n1,a,3\n", {}, "this line has 3 values, the first names 2 columns"),
        ("x,y\n1,2\n", {}, r"there is no column 'kind'.*\n.*it has x, y"),
        ("x,kind\n1,a\n", {"features": ["z"]}, "there is no column 'z'"),
        ("x,kind\n1,a\n", {"features": ["kind"]}, "it would predict itself"),
        ("kind\na\n", {}, "has no columns beside the label"),
        ("x,kind\n", {}, "has no rows"),
        ("", {}, "is empty: its first line"),
        ("x,kind\n1,a\n", {"task": "regression"}, "'a' is not a number"),
        ("x,kind\n1,a\n", {"path": "nope.csv"}, "does not exist"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, fields, message):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        load(params(**{"standardize": False, **fields}), SplitSizes(validation=0, calibration=0), tmp_path, 0)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "data.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="is not a table"):
        load(params(), SIZES, tmp_path, 0)
