"""What the recipe says about each layer, after the overrides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from compressctl.core.errors import UsageError
from compressctl.core.patterns import matching
from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._pieces import Survey
from compressctl.techniques.factorize._rules import Rule


@dataclass(frozen=True)
class LayerRule:
    """rule: how the layer's rank is found. conv: how it is split if it is a convolution; None but for svd."""

    layer: Layer
    rule: Rule
    conv: str | None = None


def layer_rules(survey: Survey, params: Any) -> list[LayerRule]:
    """What becomes of each layer. Raises UsageError for a pattern that matches nothing, or a rank that no layer has."""
    found = {layer.owner: LayerRule(layer, params.rank, getattr(params, "conv", None)) for layer in survey.layers}
    for override in params.overrides:
        for layer in matching(
            override.match, survey.layers, lambda layer: (layer.owner, *layer.names), also=survey.whole
        ):
            before = found[layer.owner]
            rule = before.rule if override.rank is None else override.rank
            _check_number(layer, rule)
            found[layer.owner] = LayerRule(layer, rule, getattr(override, "conv", None) or before.conv)
    return list(found.values())


def _check_number(layer: Layer, rule: Rule) -> None:
    """A number that an override gives is meant for this layer: more than it has is a slip."""
    numbers = rule if isinstance(rule, tuple) else (rule,) if isinstance(rule, int) else ()
    out, channels, *kernel = layer.outline.shape
    # A single number: more than any scheme can use.
    most = (out, channels) if len(numbers) == 2 else (min(out, channels) * math.prod(kernel),)
    for number, limit in zip(numbers, most, strict=False):
        if number > limit:
            shape = " x ".join(map(str, layer.outline.shape))
            raise UsageError(
                f"overrides: rank {number} is more than this layer has ({layer.owner} is {shape})",
                hint=f"choose {limit} or less, or `rank: {{energy: 0.95}}`",
            )
