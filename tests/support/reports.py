"""Measurements of files, made by hand."""

from typing import Any

from compressctl.measure.results import Change, Measurement
from compressctl.measure.speed_words import speedup_of


def file_measurement(total: int, *, ratio: float | None = None, drop: float | None = None) -> Measurement:
    change = None
    if drop is not None:
        change = Change(drop=drop, worst_class=("cat", 2 * drop), right_to_wrong=1, wrong_to_right=0, disagreements=1)
    empty: dict[str, Any] = dict.fromkeys(("score", "latency", "memory", "integer_mac_share"))
    return Measurement(
        path="model.onnx",
        files={"model.onnx": total},
        total_bytes=total,
        transport_bytes=total,
        parameters=1,
        macs=1,
        nodes=(),
        speed=speedup_of(ratio, ratio - 0.1, ratio + 0.1) if ratio else None,
        change=change,
        **empty,
    )
