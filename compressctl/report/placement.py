"""What the clock chose between integers and floats, in a sentence; see quantize.static's `placement: measured`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressctl.measure.speed_words import load_words, times


def placement_words(facts: Mapping[str, Any]) -> str | None:
    """Of a stage that placed integers by the clock; None for others."""
    found = facts.get("placement")
    if found is None:
        return None
    if "not_timed" in found:
        return f"timed no placement of integers: {found['not_timed']}"
    on = found["timed_on"]
    effort = f"{found['placements_timed']} placements timed in {found['seconds']:.0f} s on {on['backend']}, {load_words(on['batch_size'], on['threads'])}"
    layers = sum(len(part["layers"]) for part in found["float_by_the_clock"])
    if not layers:
        return f"kept every layer that can in integers: no placement was faster beyond the noise ({effort})"
    ratio = times(found["speedup_over_all_integers"])
    return f"put {layers} of {found['could_be_integers']} layers in float by the clock, {ratio}x the speed of all in integers ({effort})"
