"""What was chosen for single nodes, as overrides of quantize.static, so that a recipe can say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from compressctl.core.patterns import literal
from compressctl.graph.sites import Site
from compressctl.techniques.quantize.params import StaticOverride, Width


def as_overrides(widths: Mapping[str, Width]) -> tuple[StaticOverride, ...]:
    """An override for each node, whose pattern matches its name alone. See `ambiguous`."""
    return tuple(StaticOverride(match=literal(node), weights=width, ranges=None) for node, width in widths.items())


def ambiguous(nodes: Iterable[str], sites: Sequence[Site]) -> list[str]:
    """Nodes whose name is something else's too, so that no override can mean them alone."""
    names = Counter(name for site in sites for name in (site.node, site.op, site.weight, site.output))
    return [node for node in nodes if names[node] > 1]
