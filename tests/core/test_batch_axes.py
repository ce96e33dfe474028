"""Which axis of an input counts samples, from what files say about their shapes."""

import pytest

from compressctl.core.batch_axes import with_batch_axes
from compressctl.core.model import Signature, TensorSpec


def _signature(
    inputs: dict[str, tuple[int | str, ...]],
    outputs: dict[str, tuple[int | str, ...]] | None = None,
    declared: dict[str, int | None] | None = None,
) -> Signature:
    specs = [TensorSpec(name, "float32", shape) for name, shape in inputs.items()]
    given = [TensorSpec(name, "float32", shape) for name, shape in (outputs or {}).items()]
    return with_batch_axes(specs, given, declared)


@pytest.mark.parametrize(
    ("inputs", "axes"),
    [
        ({"x": ("N", 3, 8, 8)}, {"x": 0}),
        ({"x": ("batch", "length")}, {"x": 0}),
        ({"x": ("N", 64), "state": (2, "N", 32), "sr": ()}, {"x": 0, "state": 1, "sr": None}),
        ({"x": ("S", "N", 192)}, {"x": 1}),
        ({"x": ("batch", "x.1"), "state": (2, "state.1", 128), "sr": ()}, {"x": 0, "state": 1, "sr": None}),
        ({"image": ("height", "width", 3)}, {"image": None}),
        ({"x": (1, 512), "state": (2, 1, 64), "sr": (1,)}, {"x": 0, "state": 1, "sr": 0}),
        ({"x": (4, 3, 8, 8)}, {"x": 0}),
        ({"ids": ("batch", "sequence"), "mask": ("batch", "sequence")}, {"ids": 0, "mask": 0}),
        ({"x": (64,)}, {"x": None}),
        ({"x": ("unk__1", 21), "types": ("unk__2", 21)}, {"x": 0, "types": 0}),
        ({"x": ("dim_0", 4), "table": ("tokens", 4)}, {"x": 0, "table": None}),
    ],
)
def test_the_batch_axis_is_read_from_names_and_shapes(
    inputs: dict[str, tuple[int | str, ...]], axes: dict[str, int | None]
) -> None:
    assert {spec.name: spec.batch_axis for spec in _signature(inputs).inputs} == axes


def test_what_a_recipe_declares_decides() -> None:
    signature = _signature({"x": ("a", "b"), "y": ("a", "b")}, declared={"x": 1, "y": None})
    assert [spec.batch_axis for spec in signature.inputs] == [1, None]


def test_outputs_count_samples_where_the_inputs_symbol_stands() -> None:
    signature = _signature({"x": ("S", "N", 8)}, {"y": ("N", "S", 4), "z": ("unk_3", 4), "boxes": (300, 4)})
    assert [spec.batch_axis for spec in signature.outputs] == [0, 0, None]


def test_the_batch_is_fixed_open_or_one_where_nothing_counts() -> None:
    assert _signature({"x": ("N", 3)}).fixed_batch is None
    assert _signature({"x": (4, 3)}).fixed_batch == 4
    assert _signature({"image": ("height", "width", 3)}).fixed_batch == 1


def test_open_axes_have_their_symbols_and_places() -> None:
    signature = _signature({"x": ("N", 3, "H", "x.3"), "sr": ()})
    assert signature.open_axes == {"x.2": "H", "x.3": "x.3"}
