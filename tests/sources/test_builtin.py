from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compressctl.core.source import SplitSizes  # noqa: E402
from compressctl.sources import builtin, digits  # noqa: E402
from compressctl.sources.params import BuiltinParams, DigitsParams  # noqa: E402
from compressctl.training.data import tensor_batches  # noqa: E402


@pytest.mark.parametrize("name", builtin.NAMES)
def test_the_shipped_weights_recognise_digits_that_training_never_saw(name):
    model = builtin.load(BuiltinParams(name=name), Path(), 0)
    test = digits.load(DigitsParams(), SplitSizes(), Path(), 0).split("test")
    with torch.no_grad():
        right = [
            (model.body(batch.inputs[0]).argmax(1) == batch.labels).sum().item()
            for batch in tensor_batches(test, model.signature, 64)
        ]
    assert 100 * sum(right) / len(test) >= 97.5


@pytest.mark.parametrize("name", builtin.NAMES)
def test_the_weights_stay_under_a_megabyte(name):
    assert builtin.weights_path(name).stat().st_size < 1_000_000


def test_the_digits_splits_do_not_follow_the_recipes_seed():
    first, second = (digits.load(DigitsParams(), SplitSizes(), Path(), seed) for seed in (0, 7))
    for name in ("train", "validation", "calibration", "test"):
        indices = [next(dataset.split(name).batches(2000)).indices for dataset in (first, second)]
        assert np.array_equal(*indices)


def test_digits_are_images_from_0_to_1():
    batch = next(digits.load(DigitsParams(), SplitSizes(), Path(), 0).split("train").batches(50))
    assert batch.inputs["input"].shape == (50, 1, 8, 8)
    assert batch.inputs["input"].dtype == np.float32
    assert (batch.inputs["input"].min(), batch.inputs["input"].max()) == (0.0, 1.0)
    assert batch.labels.dtype == np.int64
