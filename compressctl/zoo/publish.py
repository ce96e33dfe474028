"""Which of a zoo's files are published, and what their cards say: those whose jobs ended well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from compressctl.publish.card import About
from compressctl.zoo.jobs import check_only
from compressctl.zoo.models import models_of
from compressctl.zoo.results import JobResult, Outcome, all_results
from compressctl.zoo.schema import CardSection, Manifest, ModelEntry

_ON_THE_HUB = re.compile(r"hf://(?:models/)?([^/@]+/[^/@]+)")


@dataclass(frozen=True)
class Card:
    """One repository to be. run: its job's folder."""

    job: str
    run: Path
    about: About


def cards(manifest: Manifest, base: Path, folder: Path, only: Sequence[str]) -> Iterator[Card]:
    """only: ids of jobs, or patterns over them. Raises UsageError for models that are not there, and for patterns of no job."""
    models = models_of(manifest, base)
    check_only(manifest, models, only)
    entries = {model.id: model.entry for model in models}
    for result in _good(all_results(folder), only):
        entry = entries.get(result.model)
        if entry is not None and result.run is not None:
            yield Card(result.job, folder / result.run, _about(result, manifest.defaults.card, entry))


def _good(results: Iterable[JobResult], only: Sequence[str]) -> Iterator[JobResult]:
    for result in results:
        is_asked = not only or any(fnmatchcase(name, part) for part in only for name in (result.job, result.model))
        if result.outcome is Outcome.GOOD and is_asked:
            yield result


def _about(result: JobResult, defaults: CardSection, entry: ModelEntry) -> About:
    """A model that came from the Hub was made of what lies there."""
    said = {**defaults.model_dump(exclude_none=True), **entry.card.model_dump(exclude_none=True)}
    came_from = _ON_THE_HUB.match(entry.path or "")
    if came_from is not None:
        said.setdefault("base_model", came_from[1])
    return About(result.job.replace("@", "-"), **said)
