import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.params import PythonDatasetParams
from compressctl.sources.python_dataset import load

SIZES = SplitSizes(validation=2, calibration=3)

CODE = """
import numpy as np

def arrays(count=20):
    return np.arange(count * 3, dtype=np.float64).reshape(count, 3), np.arange(count) % 2

def with_test():
    return (*arrays(), (np.full((5, 3), -1.0), np.zeros(5, int)))

def two_inputs():
    return {"ids": np.arange(40).reshape(20, 2), "mask": np.ones((20, 2), int)}, None

def uneven():
    return {"a": np.zeros((3, 1)), "b": np.zeros((4, 1))}, None

def few_labels():
    return np.zeros((20, 3)), np.zeros(3)

def nothing():
    return None

def no_numbers():
    return ["a", "b"], None

class Constant:
    classes = ("only",)

    def split(self, name):
        return self

    def __len__(self):
        return 1

    def batches(self, size, *, shuffle_seed=None):
        return iter(())

def dataset():
    return Constant()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data.py").write_text(CODE)
    return tmp_path


def made(folder, name: str, **fields):
    return load(PythonDatasetParams(factory=f"data.py:{name}", **fields), SIZES, folder, 0)


def test_arrays_are_split_and_given_as_float32(folder):
    dataset = made(folder, "arrays", args={"count": 30}, classes=("even", "odd"))
    batch = next(dataset.split("train").batches(50))
    assert len(dataset.split("test")) == 6
    assert dataset.classes == ("even", "odd")
    assert batch.inputs["input"].dtype == np.float32
    assert np.array_equal(batch.inputs["input"][:, 0], batch.indices * 3)
    assert np.array_equal(batch.labels, batch.indices % 2)


def test_a_third_value_is_the_test_split(folder):
    batch = next(made(folder, "with_test").split("test").batches(50))
    assert (batch.inputs["input"] == -1).all()
    assert batch.indices.tolist() == list(range(20, 25))


def test_inputs_by_name_without_labels(folder):
    batch = next(made(folder, "two_inputs").split("calibration").batches(50))
    assert set(batch.inputs) == {"ids", "mask"}
    assert batch.labels is None


def test_a_dataset_keeps_its_splits(folder):
    dataset = made(folder, "dataset")
    assert len(dataset.split("test")) == 1
    assert dataset.classes == ("only",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uneven", "there are 4 samples and input 'a'"),
        ("few_labels", "3 labels for 20 samples"),
        ("nothing", "returned a NoneType"),
        ("no_numbers", "is not an array of numbers"),
        ("missing", "there is no missing in it"),
    ],
)
def test_what_is_no_dataset_is_a_clear_error(folder, name, message):
    with pytest.raises(UsageError, match=message):
        made(folder, name)
