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

def dictionaries(count=20):
    return [{"ids": [n, n], "image": np.full((2, 3), n, np.uint8), "kind": "odd" if n % 2 else "even"} for n in range(count)]

def pairs():
    for n in range(20):
        yield {"a": np.float64(n), "b": np.ones(2)}, n % 3

class Numbered:
    def __len__(self):
        return 20
    def __getitem__(self, n):
        return np.full(3, n)   # endless, as torch's are

def own_splits():
    return {"train": dictionaries(12), "validation": dictionaries(4), "test": dictionaries(5)}

def of_lengths():
    return [{"x": np.ones(1 + n % 2)} for n in range(20)]

def other_keys():
    return [{"x": 1, "y": 2}, {"x": 1}]

def one_fails():
    yield {"x": 1}
    raise RuntimeError("no such file")

def words():
    return ["a", "b"]

def no_samples():
    return []

def by_input():
    return {"x": np.ones((20, 3))}
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
        ("other_keys", "sample 1: y is in some samples alone"),
        ("one_fails", "sample 1 cannot be had: RuntimeError: no such file"),
        ("words", "sample 0 is a str"),
        ("no_samples", "returned no samples"),
        ("by_input", "returned a dict"),
    ],
)
def test_what_is_no_dataset_is_a_clear_error(folder, name, message):
    with pytest.raises(UsageError, match=message):
        made(folder, name)


def test_samples_are_dictionaries_whose_keys_are_inputs_and_the_label(folder):
    dataset = made(folder, "dictionaries", label="kind")
    batch = next(dataset.split("train").batches(50))
    assert dataset.classes == ("even", "odd")
    assert {name: (array.dtype.name, array.shape[1:]) for name, array in batch.inputs.items()} == {
        "ids": ("int64", (2,)),
        "image": ("uint8", (2, 3)),
    }
    assert np.array_equal(batch.inputs["ids"][:, 1], batch.indices)
    assert np.array_equal(batch.labels, batch.indices % 2)


def test_samples_are_pairs_of_inputs_and_a_label(folder):
    batch = next(made(folder, "pairs").split("train").batches(50))
    assert {name: array.dtype.name for name, array in batch.inputs.items()} == {"a": "float32", "b": "float32"}
    assert np.array_equal(batch.labels, batch.indices % 3)


def test_a_dataset_that_is_read_by_number_ends_where_its_length_says(folder):
    batch = next(made(folder, "Numbered").split("train").batches(50))
    assert np.array_equal(batch.inputs["input"][:, 2], batch.indices)
    assert batch.labels is None


def test_samples_come_in_splits_of_their_own(folder):
    dataset = made(folder, "own_splits", label="kind")
    assert [len(dataset.split(name)) for name in ("train", "validation", "calibration", "test")] == [9, 2, 3, 5]
    assert next(dataset.split("test").batches(9)).indices.tolist() == [16, 17, 18, 19, 20]


def test_samples_of_other_shapes_do_not_share_a_batch(folder):
    sizes = {batch.inputs["x"].shape[1] for batch in made(folder, "of_lengths").split("train").batches(4)}
    assert sizes == {1, 2}


def test_a_label_that_no_sample_has_is_named(folder):
    with pytest.raises(UsageError, match=r"sample 0 has no label, which data\.label names"):
        made(folder, "dictionaries", label="label")
    with pytest.raises(UsageError, match="returned a tuple of arrays"):
        made(folder, "arrays", label="label")
