"""Parts of reports, made by hand."""

from typing import Any

from compressctl.measure.speed_words import verdict
from compressctl.report.document import ChangePart, FilePart, SpeedPart


def speed_part(ratio: float, low: float, high: float) -> SpeedPart:
    return SpeedPart(ratio=ratio, low=low, high=high, verdict=verdict(low, high))


def file_part(total: int, *, ratio: float | None = None, drop: float | None = None) -> FilePart:
    speed = speed_part(ratio, ratio - 0.1, ratio + 0.1) if ratio else None
    change = None
    if drop is not None:
        change = ChangePart(
            drop=drop, worst_class=("cat", 2 * drop), right_to_wrong=1, wrong_to_right=0, disagreements=1
        )
    empty: dict[str, Any] = dict.fromkeys(("score", "latency", "memory", "integer_mac_share"))
    return FilePart(
        path="model.onnx",
        files={"model.onnx": total},
        total_bytes=total,
        transport_bytes=total,
        parameters=1,
        macs=1,
        nodes=[],
        speed=speed,
        change=change,
        **empty,
    )
