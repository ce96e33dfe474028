"""What limits are held by measuring: latency on the target's runtime or another, and energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.techniques.search.params import Limits, Measured

Meter = Callable[[Sequence[TorchModel]], tuple[float, ...]]
"""What several networks take, measured in turn."""


def meters(limits: Limits, run: RunContext) -> dict[str, Meter]:
    """By limit. Raises StageError where the run measures nothing, MissingDependencyError for a runtime that is not installed."""
    return {one.name: _meter(one, run) for one in limits.measured}


def _meter(limit: Measured, run: RunContext) -> Meter:
    if limit.of == "energy":
        if run.joules is None:
            raise StageError("there is no runtime to measure energy in", hint="limit macs instead")
        return run.joules
    if limit.backend is None:
        return run.clock()
    if run.latency_in is None:
        raise StageError(f"there is no runtime to measure latency.{limit.backend} in", hint="limit macs instead")
    return run.latency_in(limit.backend)


class Goal:
    """The shares of what the whole network takes that hold. limits: as the recipe has them."""

    def __init__(self, limits: Limits) -> None:
        self._measured = {one.name: one for one in limits.measured}
        self.shares = dict(limits.counted)

    def set_whole(self, name: str, whole: float) -> None:
        """A measured limit, of which milliseconds are a share once it is known what the whole network takes."""
        one = self._measured[name]
        asked = [share for share in (one.share, one.most_ms and one.most_ms / whole) if share is not None]
        self.shares[name] = min(asked)

    def exceeded(self, shares: Mapping[str, float]) -> str:
        """What of these is over, beside what was asked for; empty where nothing is."""
        return ", ".join(
            f"{name} {share:.0%} at best, {self.shares[name]:.0%} was asked for"
            for name, share in shares.items()
            if share > self.shares[name]
        )
