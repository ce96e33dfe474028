"""Points of a search without a run behind them."""

from typing import Any

from compressctl.measure.speed_words import speedup_of
from compressctl.search.document import Figures, Loss, Point


def figures(size: int = 1000, speed: float | None = 1.0, loss: float | None = 0.0, **more: Any) -> Figures:
    """Of a float file of 4,000 bytes."""
    return Figures(
        total_bytes=size,
        smaller=4000 / size,
        transport_bytes=size,
        speed=None if speed is None else speedup_of(speed, 0.98 * speed, 1.02 * speed),
        loss=None
        if loss is None
        else Loss(value=loss, kind="metric", what="accuracy", unit="points", split="validation", samples=200),
        loss_unknown="" if loss is not None else "there are no samples",
        **more,
    )


def point(name: str, found: Figures | None, **more: Any) -> Point:
    state = "failed" if found is None else "measured"
    said: dict[str, Any] = {
        "family": "int8", "words": f"what {name} does", "key": name, "seconds": 1.0, "measure_seconds": 0.5, "weight": 1.0, "kind": "plain",
        "risk": 1, "recipe": {},
    }  # fmt: skip
    return Point(name=name, state=state, figures=found, **{**said, **more})
