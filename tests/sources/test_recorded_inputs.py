"""Several inputs, shared inputs, recorded calls, the model zoo's test data, and declared random values as data."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources import npz, onnx_test_data, random_inputs, requests
from compressctl.sources.named_arrays import as_samples
from compressctl.sources.params import NpzParams, OnnxTestDataParams, RandomParams, RequestsParams

SIZES = SplitSizes(validation=2, calibration=3, test=2)


def _all(dataset: Any) -> list[Any]:
    names = ("train", "validation", "calibration", "test")
    return [batch for name in names for batch in dataset.split(name).batches(4)]


def test_arrays_are_samples_along_the_axis_that_counts_them() -> None:
    arrays = {"x": np.zeros((8, 3)), "state": np.zeros((2, 8, 5)), "sr": np.array(16000)}
    found = as_samples(arrays, {}, "data")
    assert (found.count, found.constants) == (8, {"sr"})
    chosen = found.at(np.array([1, 4]))
    assert {name: array.shape for name, array in chosen.items()} == {"x": (2, 3), "state": (2, 2, 5), "sr": ()}
    assert chosen["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "declared", "says"),
    [
        ({"x": (8, 3), "table": (5, 3)}, {}, "'table'"),
        ({"x": (8, 3), "both": (2, 8, 8)}, {}, "several axes"),
        ({"x": (8, 3)}, {"y": 0}, "names 'y'"),
        ({"x": (8, 3), "y": (7, 3)}, {"x": 0, "y": 0}, "no 8 samples along axis 0"),
        ({"sr": ()}, {}, "no input has an axis"),
    ],
)
def test_what_cannot_be_told_is_asked_for(arrays: dict[str, Any], declared: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        as_samples({name: np.zeros(shape) for name, shape in arrays.items()}, declared, "data")


def test_what_is_declared_decides() -> None:
    found = as_samples({"x": np.zeros((8, 3)), "table": np.zeros((5, 3))}, {"table": None}, "data")
    assert found.at(np.array([0]))["table"].shape == (5, 3)


def test_an_npz_file_may_hold_several_inputs(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", ids=np.arange(40).reshape(10, 4), mask=np.ones((10, 4), np.int64), labels=np.arange(10) % 2
    )
    for params in (NpzParams(path="d.npz"), NpzParams(path="d.npz", inputs=("ids", "mask"))):
        dataset = npz.load(params, SIZES, tmp_path, 0)
        batches = _all(dataset)
        assert all(set(batch.inputs) == {"ids", "mask"} for batch in batches)
        for batch in batches:
            assert np.array_equal(batch.inputs["ids"][:, 0], 4 * batch.indices)
            assert np.array_equal(batch.labels, batch.indices % 2)
        assert sum(len(batch.indices) for batch in batches) == 10
    renamed = npz.load(NpzParams(path="d.npz", inputs={"tokens": "ids"}, labels=None), SIZES, tmp_path, 0)
    assert set(_all(renamed)[0].inputs) == {"tokens"}


def test_recorded_calls_come_one_by_one_as_they_are(tmp_path: Path) -> None:
    for number in range(8):
        np.savez(
            tmp_path / f"{number:02}.npz", x=np.full((1, number + 1), number), h=np.zeros((2, 1, 4)), sr=np.array(8)
        )
    dataset = requests.load(RequestsParams(path="."), SIZES, tmp_path, 0)
    batches = _all(dataset)
    assert len(batches) == 8
    assert all(batch.is_request and len(batch.indices) == 1 for batch in batches)
    assert {batch.inputs["x"].shape for batch in batches} == {(1, number + 1) for number in range(8)}
    assert all(batch.inputs["x"][0, 0] == batch.indices[0] for batch in batches)


def test_recorded_calls_may_have_labels(tmp_path: Path) -> None:
    for number in range(8):
        np.savez(tmp_path / f"{number}.npz", x=np.zeros((1, 2)), label=np.array(number % 3))
    dataset = requests.load(RequestsParams(path=".", labels="label", classes=("a", "b", "c")), SIZES, tmp_path, 0)
    assert dataset.classes == ("a", "b", "c")
    assert all(batch.labels.tolist() == [batch.indices[0] % 3] for batch in _all(dataset))
    assert "label" not in _all(dataset)[0].inputs


def test_a_call_that_lacks_an_input_is_named_before_any_is_run(tmp_path: Path) -> None:
    for number in range(8):
        np.savez(tmp_path / f"{number}.npz", **{"x" if number != 6 else "y": np.zeros((1, 3), np.float32)})
    with pytest.raises(UsageError, match=r"6\.npz has no array 'x', which .*0\.npz has"):
        requests.load(RequestsParams(path="."), SIZES, tmp_path, 0)


def test_a_folder_without_recorded_calls_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.npz file"):
        requests.load(RequestsParams(path="."), SIZES, tmp_path, 0)
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"a\.npz is not an \.npz file"):
        requests.load(RequestsParams(path="."), SIZES, tmp_path, 0)


def test_the_model_zoos_test_data_brings_what_it_expects(tmp_path: Path) -> None:
    for number in (0, 2, 10, 1, 3, 4, 5, 6):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for kind, name in (("input", "x"), ("output", "y")):
            tensor = numpy_helper.from_array(np.full((1, 3), number, np.float32), name)
            (folder / f"{kind}_0.pb").write_bytes(tensor.SerializeToString())
    dataset = onnx_test_data.load(OnnxTestDataParams(path="."), SIZES, tmp_path, 0)
    for batch in _all(dataset):
        number = (0, 1, 2, 3, 4, 5, 6, 10)[batch.indices[0]]
        assert batch.inputs["x"].tolist() == [[number] * 3]
        assert batch.expected["y"].tolist() == [[number] * 3]


def test_test_data_without_names_takes_them_from_the_recipe(tmp_path: Path) -> None:
    tensor = onnx.TensorProto()
    tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 3), np.float32)))
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    sizes = SplitSizes(validation=0, calibration=0, test=1)
    with pytest.raises(UsageError, match="does not say which input"):
        onnx_test_data.load(OnnxTestDataParams(path="."), sizes, tmp_path, 0)
    found = onnx_test_data.load(OnnxTestDataParams(path=".", inputs=("image",)), sizes, tmp_path, 0)
    assert set(_all(found)[0].inputs) == {"image"}


def test_random_values_are_the_same_in_every_batch_and_say_that_they_are_no_data() -> None:
    params = RandomParams.model_validate(
        {"inputs": {"x": {"shape": [3], "low": -1, "high": 1}, "sr": {"shape": [], "dtype": "int64", "low": 8, "high": 9, "shared": True}}, "samples": 10}
    )  # fmt: skip
    dataset = random_inputs.load(params, SIZES, Path(), 0)
    assert dataset.is_random  # type: ignore[attr-defined]
    split = dataset.split("test")
    (whole,) = split.batches(8)
    ones = list(split.batches(1))
    assert np.array_equal(whole.inputs["x"], np.concatenate([batch.inputs["x"] for batch in ones]))
    assert whole.inputs["sr"] == 8
    assert whole.constants == {"sr"}
    assert whole.inputs["x"].min() >= -1
    assert whole.inputs["x"].max() <= 1


def test_a_file_of_objects_is_refused_in_words_of_our_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "calls").mkdir()
    (tmp_path / "d.npz").rename(tmp_path / "calls" / "0.npz")
    with pytest.raises(UsageError, match="it holds Python objects, which are never read"):
        requests.load(RequestsParams(path="calls"), SIZES, tmp_path, 0)


def test_calls_of_a_subfolder_are_the_steps_of_a_sequence_and_have_one_shape(tmp_path: Path) -> None:
    params = RequestsParams(path=".", sequences=True, labels="y")
    with pytest.raises(UsageError, match="holds no subfolders"):
        requests.load(params, SIZES, tmp_path, 0)
    for place in range(8):
        (tmp_path / f"{place}").mkdir()
        for step in range(place + 1):
            values = {"x": np.full((1, 3), 10 * place + step, np.float32), "y": np.array([step % 2])}
            np.savez(tmp_path / f"{place}" / f"{step}.npz", **values)
    found = {int(batch.indices[0]): batch for batch in _all(requests.load(params, SIZES, tmp_path, 0))}
    assert found[4].inputs["x"].shape == (5, 1, 3)
    assert found[4].inputs["x"][:, 0, 0].tolist() == [40, 41, 42, 43, 44]
    assert found[4].labels is not None
    assert found[4].labels.tolist() == [[0, 1, 0, 1, 0]]
    np.savez(tmp_path / "4" / "5.npz", x=np.zeros((1, 4), np.float32), y=np.array([0]))
    with pytest.raises(UsageError, match="the first call of the sequence"):
        _all(requests.load(params, SIZES, tmp_path, 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.npz file"):
        requests.load(params, SIZES, tmp_path, 0)
