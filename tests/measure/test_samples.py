"""What is timed and counted: a real sample at its real shape, or the shape that somebody asked for, never a guess."""

import numpy as np
import pytest

from compressctl.core.errors import UsageError
from compressctl.core.model import Signature, TensorSpec
from compressctl.measure.samples import Samples, in_words, parse_shapes, random_inputs
from compressctl.sources.requests import Recorded, RequestDataset
from compressctl.sources.splits import Splits

OPEN = Signature((TensorSpec("x", "float32", ("N", 3, "H", "x.3")), TensorSpec("sr", "int64", ())), ())
TOKENS = Signature((TensorSpec("ids", "int64", ("N", "T")),), ())


def _recorded(lengths: list[int]) -> RequestDataset:
    def read(position: int) -> Recorded:
        return Recorded({"ids": np.full((1, lengths[position]), position)})

    none = np.array([], int)
    return RequestDataset(read, Splits(none, none, np.arange(len(lengths)), none))


def test_the_median_sample_is_timed_and_the_ends_are_at_hand() -> None:
    samples = Samples(TOKENS, _recorded([5, 90, 7, 6, 100, 8, 9, 10, 11, 12, 1]))
    assert samples.sizes == ("median", "10 %", "90 %")
    assert samples.call(1).shapes == {"ids": (1, 9)}
    assert samples.call(1, "10 %").shapes == {"ids": (1, 5)}
    assert samples.call(1, "90 %").shapes == {"ids": (1, 90)}
    assert samples.call(4).shapes == {"ids": (4, 9)}
    assert not samples.call(1).is_random


def test_a_shape_that_was_asked_for_decides_with_the_datas_values() -> None:
    samples = Samples(TOKENS, _recorded([5, 9]), {"T": 12})
    call = samples.call(2)
    assert call.shapes == {"ids": (2, 12)}
    assert set(call.inputs["ids"].ravel()) <= {0, 1}
    assert samples.sizes == ("median",)


def test_samples_of_one_size_need_no_ends() -> None:
    assert Samples(TOKENS, _recorded([5, 5, 5])).sizes == ("median",)


def test_without_data_every_open_axis_must_be_named() -> None:
    with pytest.raises(UsageError, match=r"H \(x\.2\), x\.3") as raised:
        Samples(OPEN).call(1)
    assert "--shape H=64" in (raised.value.hint or "")
    assert "target: {shapes: {H: 64, x.3: 64}}" in (raised.value.hint or "")
    call = Samples(OPEN, None, {"H": 20, "x.3": 30}).call(2)
    assert call.shapes == {"x": (2, 3, 20, 30), "sr": ()}
    assert call.is_random
    assert "random values" in in_words(call)


def test_a_name_that_is_no_open_axis_is_an_error_that_names_them() -> None:
    with pytest.raises(UsageError, match="no open axis 'W'") as raised:
        random_inputs(OPEN, 1, {"W": 3})
    assert "H (x.2)" in (raised.value.hint or "")


def test_a_model_that_fixes_its_batch_is_called_with_it() -> None:
    fixed = Signature((TensorSpec("x", "float32", (4, 2)),), ())
    assert Samples(fixed).call(1).shapes == {"x": (4, 2)}


@pytest.mark.parametrize("text", ["H", "H=", "=3", "H=0", "H=-1", "H=1.5", "H=x"])
def test_a_shape_on_the_command_line_is_name_and_size(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=SIZE"):
        parse_shapes([text])
    assert parse_shapes(["H=3", "x.2=4"]) == {"H": 3, "x.2": 4}


def test_a_recorded_call_of_several_samples_counts_as_many() -> None:
    signature = Signature((TensorSpec("x", "float32", ("seq", "batch", 16), 1),), ())
    call = Recorded({"x": np.zeros((35, 2, 16), np.float32)})
    dataset = RequestDataset(lambda position: call, Splits(*(np.arange(1) for _ in range(4))))
    samples = Samples(signature, dataset)
    assert [samples.call(batch).samples for batch in (1, 4)] == [2, 2]
    assert samples.sample_shapes() == {"x": (35, 1, 16)}


def test_a_sample_that_was_stretched_is_no_sample_of_the_data() -> None:
    samples = Samples(TOKENS, _recorded([8, 8]), {"T": 8})
    assert not samples.call(1).is_stretched
    stretched = Samples(TOKENS, _recorded([8, 8]), {"T": 20}).call(1)
    assert stretched.is_stretched
    assert "at the size asked for" in in_words(stretched)


def test_random_calls_count_their_batch() -> None:
    signature = Signature((TensorSpec("x", "float32", ("batch", 3), 0), TensorSpec("sr", "int64", ())), ())
    assert Samples(signature).call(5).samples == 5
