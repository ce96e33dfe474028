"""What each layer of a model takes on this machine, for a search on another one that knows what each loses."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compressctl.core.cache import Cache
from compressctl.core.errors import StageError
from compressctl.core.events import Listener
from compressctl.measure.environment import environment
from compressctl.pipeline.plan import make_plan
from compressctl.search.facts import facts_of
from compressctl.search.journal import key_of
from compressctl.search.measure_tables import STAGE, measure
from compressctl.search.opened import opened
from compressctl.search.subject import Asked, subject_of
from compressctl.search.tables import Tables


def costs_here(asked: Asked, seconds: float, cache: Cache | None, listeners: Sequence[Listener]) -> Tables:
    """Times of a model's layers on this machine, nothing compared: for a search on another one. seconds: after which layers that are left are not
    timed. Raises UsageError, what loading the model raises, NothingToCompressError, and StageError where no clock can be asked."""
    with tempfile.TemporaryDirectory() as folder:
        subject = subject_of(asked, Path(folder))
        recipe = subject.recipe([STAGE])
        key = key_of(make_plan(recipe, None).digest)
        with opened(recipe, cache, listeners) as executor:
            facts = replace(facts_of(executor), is_random=True)
            found = measure(executor, key, facts, seconds, environment())
    if found.float_ms is None or found.integer_ms is None:
        raise StageError(f"{subject.content['target']['backend']} cannot be timed here")
    return found
