"""What is asked of a search: limits on loss, speed and size, and what counts among files that keep them. Light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from compressctl.core.errors import UsageError
from compressctl.recipe.schema import Level, Prefer, SearchSection

PREFERENCES: dict[Prefer, str] = {
    "balanced": "the largest product of times smaller and times faster",
    "size": "the smallest file",
    "speed": "the fastest file",
    "quality": "the least loss",
}
"""What is handed over of the files that keep all limits."""


@dataclass(frozen=True)
class Goal:
    """drop: most that may be lost: points of a metric in percent, or percent where outputs are held against the original's.

    speedup, smaller: least times as fast, as small, as the float file in the same runtime; None where nothing is asked.
    size_bytes: most bytes of the exported file.
    """

    drop: float = 1.0
    speedup: float | None = None
    smaller: float | None = None
    size_bytes: int | None = None

    def limit_bytes(self, original_bytes: int) -> int | None:
        """The tighter of the two limits on size."""
        limits = [
            *([self.size_bytes] if self.size_bytes is not None else []),
            *([max(1, math.floor(original_bytes / self.smaller))] if self.smaller is not None else []),
        ]
        return min(limits, default=None)

    @property
    def asks_for_gain(self) -> bool:
        """Whether anything but the loss is limited."""
        return self.speedup is not None or self.smaller is not None or self.size_bytes is not None


LEVELS: dict[Level, Goal] = {
    "low": Goal(drop=0.5, smaller=2),
    "medium": Goal(drop=1.0, smaller=4, speedup=2),
    "high": Goal(drop=3.0, smaller=8, speedup=4),
    "extreme": Goal(drop=8.0, smaller=16, speedup=8),
}
"""The usual scale: half precision, 8 bits, 4 bits, and what takes training."""


def goal_of(
    level: str | None, drop: float | None, speedup: float | None, size_bytes: int | None, smaller: float | None = None
) -> Goal:
    """A level's limits, each replaced where another one is given. A size replaces the level's. Raises UsageError."""
    if level is not None and level not in LEVELS:
        raise UsageError(f"--level {level}: unknown", hint=f"known: {', '.join(get_args(Level))}")
    base = LEVELS[level] if level is not None else Goal()
    for name, value, least in (("drop", drop, 0.0), ("speedup", speedup, None), ("smaller", smaller, None)):
        if value is None:
            continue
        if not math.isfinite(value) or (value < least if least is not None else value <= 0):
            raise UsageError(
                f"--{name} {value:g}: {'0 or more' if least is not None else 'a ratio above 0'} is asked for"
            )
    if size_bytes is not None and size_bytes < 1:
        raise UsageError("--size: a file of no bytes is asked for", hint="write it like 5MB or 800KB")
    of_size = smaller is None and size_bytes is None
    return Goal(
        drop=base.drop if drop is None else drop,
        speedup=base.speedup if speedup is None else speedup,
        smaller=base.smaller if of_size else smaller,
        size_bytes=size_bytes,
    )


@dataclass(frozen=True)
class Request:
    """seconds: that the search may take, None without an end. training: of every candidate that trains, over what the search
    would take. costs: file of the times that layers take on another machine, which will serve the file; None for this one."""

    goal: Goal = Goal()
    prefer: Prefer = "balanced"
    seconds: float | None = None
    level: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    costs: Path | None = None


def request_of(section: SearchSection, base: Path) -> Request:
    """What a recipe's section asks. base: the recipe's folder."""
    goal = goal_of(section.level, section.drop, section.speedup, section.size, section.smaller)
    seconds = None if section.time == "unlimited" else float(section.time)
    costs = None if section.costs is None else base / section.costs
    return Request(goal, section.prefer, seconds, section.level, section.train, costs)


def training_of(texts: Sequence[str]) -> dict[str, Any]:
    """What every training takes, from NAME=VALUE with values as YAML has them. Raises UsageError."""
    from pydantic import ValidationError

    from compressctl.core.errors import RecipeError
    from compressctl.core.nearest import suggestion
    from compressctl.recipe.nodes import plain
    from compressctl.recipe.strict_yaml import Source, parse
    from compressctl.training.params import TrainingParams

    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--train {text}: write NAME=VALUE", hint="as in --train epochs=10")
        if name not in TrainingParams.model_fields:
            raise UsageError(f"--train {text}: unknown", hint=suggestion(name, TrainingParams.model_fields))
        try:
            node = parse(Source("--train", value))
        except RecipeError as error:
            raise UsageError(f"--train {text}: {error.problems[0].message}") from None
        values[name] = None if node is None else plain(node)
    try:
        TrainingParams.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UsageError(f"--train {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    return values
