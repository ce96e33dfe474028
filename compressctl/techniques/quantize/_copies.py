"""What a stage says about weights that it stores once for each way in which they are read."""

from __future__ import annotations

from typing import Any

from compressctl.core.events import Events
from compressctl.core.quant import QuantPlan
from compressctl.graph.matmul_nbits import bits_of
from compressctl.graph.own_copies import Copied, in_words


def say_copies(copied: Copied, plan: QuantPlan, events: Events) -> dict[str, Any]:
    """Facts for the report, empty where nothing was copied; a warning where the copies take more than the float weight did."""
    bits = {name: found for name, quant in plan.weights.items() if (found := bits_of(quant)) is not None}
    sentences, grew = in_words(copied, bits)
    for sentence in sentences:
        events.warn(sentence) if grew else events.emit("note", message=sentence)
    return {"read_in_several_ways": sentences} if sentences else {}
