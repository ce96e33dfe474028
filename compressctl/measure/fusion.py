"""How much of a file a runtime really computes in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressctl.core.backend import Artifact, Backend, ExecutedNode
from compressctl.core.count import count
from compressctl.core.target import Target
from compressctl.measure.results import Fusion

_INTEGERS = ("int2", "int4", "int8", "uint8")
"""Without "int4 weights", which are turned into floats and multiplied as such."""


def fusion(
    backend: Backend, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
) -> Fusion:
    """inputs: the shapes of a real sample by name of the input, see `Backend.explain`."""
    return fusion_of(tuple(backend.explain(artifact, target, inputs)))


def fusion_of(nodes: tuple[ExecutedNode, ...]) -> Fusion:
    total = count((node.op, node.macs) for node in nodes)
    integer = sum(node.macs or 0 for node in nodes if node.precision in _INTEGERS)
    return Fusion(nodes, integer / total.known if total.known else None, total.unknown)
