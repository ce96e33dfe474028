"""What narrower layers, missing blocks and fewer bits take and lose, as widths.json holds it. Fields are only ever added within one major version."""

from __future__ import annotations

import itertools
import math
from typing import Any, Self

from pydantic import Field, model_validator

from compressctl.measure.results import Result
from compressctl.search.tables import Figure, Milliseconds

WIDTHS_VERSION = "1.0"

_MOST = 1 << 50


class WidthOption(Result):
    """One number of channels."""

    channels: int = Field(ge=0, le=_MOST, description="that stay")
    saves_ms: Figure | None = Field(
        None,
        description="of a call of a file in 8 bits, timed in place, all groups of one structure together; null where nothing timed it",
    )
    distance: Figure = Field(
        description="how far the outputs are from the original's when this alone is changed, norms measured anew, nothing trained"
    )


class GroupTable(Result):
    """Channels that go together."""

    name: str = Field(description="the first layer that gives them")
    layers: tuple[str, ...] = Field(min_length=1, description="all that do")
    kind: str = Field(description="equal for groups of one structure, which are timed together")
    block: str | None = Field(None, description="the residual block that all of their layers lie in")
    options: tuple[WidthOption, ...] = Field(min_length=1, description="the first is all of them")


class BlockTable(Result):
    """A residual block that may go."""

    name: str
    saves_ms: Figure | None = None
    distance: Figure


class Combination(Result):
    """A layer's size where its groups have so many channels."""

    channels: tuple[int, ...] = Field(description="of each of the layer's groups, in their order")
    parameters: int = Field(ge=0, le=_MOST, description="weights")
    outputs: int = Field(ge=0, le=_MOST)
    macs: int = Field(ge=0, le=_MOST)


class SizedLayer(Result):
    """A layer with weights. groups: those that decide its size."""

    name: str
    groups: tuple[str, ...]
    block: str | None = None
    sizes: tuple[Combination, ...] = Field(min_length=1)
    has_integers: bool = Field(description="whether its weights may have 8 bits")
    distance_int4: Figure | None = Field(None, description="when it alone has 4-bit weights; null where it cannot")


class WidthTables(Result):
    """Of one network, its training samples and one target."""

    schema_version: str = WIDTHS_VERSION
    key: str = Field(description="of everything that decides them")
    distance: str = Field(description="what tells outputs apart")
    samples: int = Field(description="training samples by which distances were measured")
    float_ms: Milliseconds | None = Field(None, description="of one call of the float file")
    integer_ms: Milliseconds | None = Field(
        None, description="of the whole network in 8 bits; what is saved is of this"
    )
    float_bytes: int = Field(ge=0, le=_MOST, description="of the float file")
    groups: tuple[GroupTable, ...]
    blocks: tuple[BlockTable, ...]
    layers: tuple[SizedLayer, ...]
    left_out: tuple[str, ...] = ()
    seconds: float
    environment: dict[str, Any] = Field({}, description="machine and packages")

    @model_validator(mode="after")
    def _names_and_sizes_agree(self) -> Self:
        """Whoever plans by the tables looks layers, groups and sizes up in one another."""
        options = {group.name: {one.channels for one in group.options} - {0} for group in self.groups}
        if len(options) < len(self.groups) or len({block.name for block in self.blocks}) < len(self.blocks):
            raise ValueError("two groups or two blocks have one name")
        for layer in self.layers:
            if unknown := set(layer.groups) - set(options):
                raise ValueError(f"layer {layer.name} names groups that are not in groups: {', '.join(unknown)}")
            widths = [options[name] for name in layer.groups]
            sizes = {one.channels for one in layer.sizes}
            # Counted first: of a file that somebody wrote the product may be anything.
            if math.prod(map(len, widths)) > len(sizes) or not sizes.issuperset(itertools.product(*widths)):
                raise ValueError(f"layer {layer.name} lacks the size of a combination of its groups' channels")
        return self


def json_schema() -> dict[str, Any]:
    """The schema of widths.json (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **WidthTables.model_json_schema(mode="serialization"),
        "title": f"compressctl widths {WIDTHS_VERSION}",
    }
