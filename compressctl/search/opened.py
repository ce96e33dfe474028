"""A recipe's model and data, opened and tried as every run does before its stages, for whoever only looks at them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from compressctl.core.cache import Cache
from compressctl.core.custom_ops import using
from compressctl.core.events import Events, Listener
from compressctl.measure.session_host import SessionHost
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.plan import make_plan
from compressctl.pipeline.run import check_installed
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.schema import Recipe
from compressctl.sources.load import libraries


@contextmanager
def opened(recipe: Recipe, cache: Cache | None, listeners: Sequence[Listener]) -> Iterator[Executor]:
    """After one batch went through; its folder is gone afterwards. Raises what loading and that batch raise."""
    check_installed(recipe)
    plan = make_plan(recipe, cache)
    with (
        tempfile.TemporaryDirectory() as folder,
        SessionHost() as host,
        using(libraries(recipe.model, recipe.base)),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        executor = Executor(Workspace(recipe, plan, Path(folder), cache, Events(*listeners), host))
        executor.preflight()
        yield executor
