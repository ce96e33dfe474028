"""Limits on the command line: budgets as in `speedup=1.5` and `size=5MB`, durations as in `30m`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from compressctl.core.errors import UsageError
from compressctl.core.nearest import suggestion
from compressctl.recipe.schema import LONGEST_SECONDS, BudgetSection, FidelityLimits, parse_duration


def time_limit_of(text: str, option: str = "--time-limit") -> float:
    """Seconds. Raises UsageError that names the option."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{option} {text}: not a duration", hint="write it like 90s, 30m or 1h30m, a year at most")
    return float(seconds)


def parse_budget(texts: Sequence[str]) -> BudgetSection:
    """Raises UsageError that names the limit and what is wrong with it."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--budget {text}: write LIMIT=VALUE", hint="as in --budget speedup=1.5")
        limit, _, output = name.partition(".")
        if limit not in BudgetSection.model_fields or (output and limit not in FidelityLimits.model_fields):
            raise UsageError(f"--budget {text}: unknown limit", hint=suggestion(limit, BudgetSection.model_fields))
        if output:
            named = values.setdefault(limit, {})
            if not isinstance(named, dict):
                raise UsageError(
                    f"--budget {text}: {limit} limits all outputs already", hint="name each output, or none"
                )
            named[output] = value
        else:
            values[limit] = value
    try:
        return BudgetSection.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise UsageError(f"--budget {name}={values[name]}: {problem['msg']}") from None
