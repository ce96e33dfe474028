"""What a concatenation joins gets one scale, unless that would cost too much or let through what a Relu cuts off."""

import numpy as np
import pytest

from compressctl.core.quant import TensorQuant
from compressctl.graph.sites import Kind, Site
from compressctl.techniques.quantize._concat import share_scales


def _quant(low: float, high: float) -> TensorQuant:
    scale = (high - low) / 255
    return TensorQuant("uint8", np.asarray(scale, np.float32), np.asarray(round(-low / scale), np.uint8))


def _sites(**folded: float) -> list[Site]:
    made = [
        Site(f"make_{name}", "Conv", Kind.MULTIPLY, ("x",), name, folded="relu" if name in folded else None,
             clip=(folded.get(name, -np.inf), np.inf))
        for name in ("a", "b")
    ]  # fmt: skip
    return [
        *made,
        Site("join", "Concat", Kind.COMBINE, ("a", "b"), "c"),
        Site("flat", "Flatten", Kind.MOVE, ("c",), "d"),
    ]


def test_inputs_output_and_what_is_only_moved_share_the_widest_range() -> None:
    plan = {"x": _quant(-1, 1), "a": _quant(0, 2), "b": _quant(0, 6), "c": _quant(0, 6), "d": _quant(0, 6)}
    found = share_scales(plan, _sites(), "openvino")
    assert {float(found[name].scale) for name in "abcd"} == {float(plan["b"].scale)}
    assert found["x"] is plan["x"]


def test_a_much_narrower_branch_keeps_its_own_scale() -> None:
    plan = {"a": _quant(0, 0.1), "b": _quant(0, 6), "c": _quant(0, 6), "d": _quant(0, 6)}
    found = share_scales(plan, _sites(), "openvino")
    assert found["a"] is plan["a"]
    assert float(found["b"].scale) == float(found["c"].scale)


@pytest.mark.parametrize(
    ("backend", "width", "is_shared"),
    [("onnxruntime", 3.1, True), ("onnxruntime", 2.9, False), ("openvino", 0.38, True), ("openvino", 0.37, False)],
)
def test_how_narrow_a_branch_may_be_depends_on_how_the_runtime_joins(
    backend: str, width: float, is_shared: bool
) -> None:
    plan = {"a": _quant(0, width), "b": _quant(0, 6), "c": _quant(0, 6), "d": _quant(0, 6)}
    found = share_scales(plan, _sites(), backend)
    assert (float(found["a"].scale) == float(found["b"].scale)) == is_shared


def test_a_folded_relu_is_never_undone() -> None:
    plan = {"a": _quant(0, 2), "b": _quant(-3, 3), "c": _quant(-3, 3), "d": _quant(-3, 3)}
    assert share_scales(plan, _sites(a=0.0), "openvino") == plan


def test_nothing_is_shared_without_a_concatenation() -> None:
    plan = {"a": _quant(0, 2), "b": _quant(0, 6)}
    assert share_scales(plan, _sites()[:2], "openvino") == plan
