"""What the report says of weights that a stage made zero: the runtime's way with them, and what was measured."""

from typing import Any

import pytest
from support.reports import file_measurement

from compressctl.core.backend import StoredWeights
from compressctl.measure.results import BackendResult, Measurement, Speedup, WaterfallStep
from compressctl.report import sentences
from compressctl.report.document import Report, Stage

NO_CHANGE = Speedup(ratio=1.0, low=0.97, high=1.03, verdict="no measurable change")


def _file(transport: int, zeros: int, *, total: int = 4000, dtype: str = "float", speed: Speedup | None) -> Measurement:
    weights = [StoredWeights(dtype=dtype, elements=1000, stored_bytes=total, zeros=zeros)]
    return file_measurement(total).model_copy(update={"transport_bytes": transport, "weights": weights, "speed": speed})


def _point(name: str, total: int, transport: int, step: Speedup | None) -> WaterfallStep:
    return WaterfallStep(
        id=name,
        total_bytes=total,
        transport_bytes=transport,
        score=None,
        drop=None,
        latency=None,
        speed=step,
        step=step,
    )


def _stage(name: str, **facts: Any) -> Stage:
    return Stage(id=name, use="prune.unstructured", seconds=1, cached=False, params={}, facts=facts)


def _said(part: BackendResult, *stages: Stage) -> str:
    report = Report.model_construct(backends=[part], stages=list(stages))
    return " ".join(sentences.zeros(part, report))


def _part(backend: str, compressed: Measurement, *waterfall: WaterfallStep) -> BackendResult:
    return BackendResult(
        backend=backend, version="1", baseline=_file(4000, 0, speed=None), compressed=compressed, smaller=1.0,
        waterfall=list(waterfall),
    )  # fmt: skip


def test_zeros_alone_bring_transport_and_no_speed() -> None:
    part = _part("onnxruntime", _file(1000, 900, speed=NO_CHANGE))
    assert _said(part, _stage("sparse", zeros={"share": 0.9})) == (
        "90.0% of the weights in the file are zero. ONNX Runtime multiplies with zeros as with any number: its kernels are "
        "dense. Measured: no measurable change (95 %: 0.97 to 1.03); 4.00x smaller when compressed for transport, the file "
        "itself as large as before."
    )


def test_among_other_stages_only_its_own_part_is_its() -> None:
    faster = Speedup(ratio=2.0, low=1.9, high=2.1, verdict="faster")
    part = _part(
        "onnxruntime",
        _file(300, 900, total=1000, dtype="int8", speed=faster),
        _point("float", 4000, 4000, None),
        _point("sparse", 4000, 1600, NO_CHANGE),
        _point("int8", 1000, 300, faster),
    )
    lowering = Stage(id="lower", use="lower", seconds=1, cached=False, params={}, facts={})
    said = _said(part, _stage("sparse", zeros={"share": 0.9}), lowering, _stage("int8"))
    assert "Measured for this stage: no measurable change (95 %: 0.97 to 1.03); 2.50x smaller" in said


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_each_runtime_says_what_it_makes_of_zeros(backend: str) -> None:
    said = _said(_part(backend, _file(1000, 500, speed=None)), _stage("sparse", zeros={}))
    assert {"openvino": "kernels are dense", "tensorrt": "in the 2:4 pattern alone"}[backend] in said
    assert "speed not measured here" in said


def test_a_file_in_other_numbers_is_not_credited_to_zeros() -> None:
    said = _said(
        _part("tensorrt", _file(800, 500, total=2000, dtype="float16", speed=None)), _stage("sparse", zeros={})
    )
    assert "The whole file: speed not measured here; 5.00x smaller when compressed for transport." in said


def test_an_unknown_runtime_is_only_measured() -> None:
    said = _said(_part("someone-elses", _file(1000, 500, speed=NO_CHANGE)), _stage("sparse", zeros={}))
    assert said.startswith("50.0% of the weights in the file are zero. Measured: no measurable change")


def test_nothing_is_said_without_such_a_stage_or_when_it_was_skipped() -> None:
    part = _part("onnxruntime", _file(1000, 900, speed=NO_CHANGE))
    assert _said(part, _stage("int8")) == ""
    assert _said(part, _stage("sparse", zeros={}, skipped="lost 3 points")) == ""
