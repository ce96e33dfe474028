"""What each way to store and compute each layer takes and loses, as tables.json holds it. Fields are only ever added within one major version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from compressctl.core.target import Profile
from compressctl.measure.results import Result

TABLES_VERSION = "1.3"

Technique = Literal["float", "int8", "int4", "weights8", "weights4", "low rank", "shared"]
Width = Literal["float", "int8", "int4", "weights8", "weights4"]
"""8 and 4 bits with activations in 8, or of weights alone."""


_MOST = 1e9
_MOST_BYTES = 1 << 50
Figure = Annotated[float, Field(ge=-_MOST, le=_MOST)]
"""Whoever wrote the file: sums of what it holds stay numbers."""
Milliseconds = Annotated[float, Field(ge=1e-6, le=_MOST)]


class LayerOption(Result):
    """One way of one layer."""

    name: str = Field(description="as in int8, channel rank 24, or shared16")
    rank: str | None = Field(None, description="the option of factorize.svd; null where the layer stays whole")
    clusters: int | None = Field(
        None,
        description="different weights, up to a scale per output, which share.kmeans chooses; null where it does not",
    )
    width: Width = Field(
        description="of the layer's weights, or of its pieces': beside activations of 8 bits, or alone"
    )
    bytes: int = Field(
        ge=0, le=_MOST_BYTES, description="of its weights, scales included, codes of 4 bits two to a byte"
    )
    adds_ms: Figure | None = Field(
        None,
        description="to one call of a file in which every layer has 8 bits, timed in place; of thinner layers what they change "
        "of the float file's time, scaled to the other's; null where nothing timed it",
    )
    distance: dict[Technique, Figure] = Field(
        description="how far the outputs are from the original's when this alone is changed, by what changes it; empty where nothing was "
        "compared: tables of times alone"
    )


class LayerTable(Result):
    """options: the first is 8 bits wherever those are possible, else float."""

    name: str = Field(description="of the first node that reads its weight")
    nodes: tuple[str, ...] = Field(min_length=1, description="all that do: they get one option")
    op: str
    parameters: int = Field(ge=0, le=_MOST_BYTES)
    options: tuple[LayerOption, ...] = Field(min_length=1)
    reads: dict[str, Annotated[int, Field(ge=0, le=_MOST_BYTES)]] | None = Field(
        None,
        description="numbers that it reads, by the layer that makes them, the model's inputs under an empty name; null where nobody looked (1.3)",
    )
    gives: int = Field(0, ge=0, le=_MOST_BYTES, description="numbers of its that reach the model's outputs (1.3)")


class TimedTarget(Result):
    """What was timed."""

    backend: str = Field(max_length=100)
    device: str = Field(max_length=100)
    profile: Profile
    threads: int = Field(ge=0, description="0 is all")
    batch_size: int = Field(ge=1)
    shapes: dict[str, tuple[int, ...]] = Field(description="of the call's inputs, by name")


class Tables(Result):
    """Of one model, its calibration samples and one target."""

    schema_version: str = TABLES_VERSION
    key: str = Field(description="of everything that decides them")
    distance: str = Field(description="what tells outputs apart; empty where nothing was compared")
    samples: int = Field(description="by which distances were measured")
    split: Literal["validation", "calibration"] = Field(
        "calibration",
        description="that those are of: calibration where there is no other; what was fitted to them looks better there (1.2)",
    )
    target: TimedTarget | None = Field(None, description="what was timed (1.1)")
    float_ms: Milliseconds | None = Field(
        None, description="of one call of the float file, in the same rounds as the next"
    )
    integer_ms: Milliseconds | None = Field(None, description="with every layer in 8 bits; what `adds_ms` are added to")
    float_bytes: int = Field(ge=0, le=_MOST_BYTES, description="of the float file")
    layers: tuple[LayerTable, ...]
    left_out: tuple[str, ...] = Field((), description="layers that nothing was measured of, each with why")
    rounding: dict[str, dict[str, Any]] = Field({}, description="of weights8 and weights4, as quantize.weights is told")
    sharing: dict[str, Any] = Field({}, description="beside clusters, as share.kmeans is told (1.1)")
    seconds: float
    environment: dict[str, Any] = Field({}, description="machine and packages")


def json_schema() -> dict[str, Any]:
    """The schema of tables.json (JSON Schema 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Tables.model_json_schema(mode="serialization"),
        "title": f"compressctl tables {TABLES_VERSION}",
    }
