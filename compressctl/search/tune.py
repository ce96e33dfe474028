"""How the best network is trained, where training is what stands in the way: rates, temperatures and shares of epochs, which no table tells.

Optuna proposes (TPE, Bergstra et al. 2011) and keeps its trials in a file of the search's folder, so that a search that was stopped goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressctl.core.errors import MissingDependencyError, UsageError
from compressctl.search.document import Point
from compressctl.search.narrow import LEARNING_RATE, ROUNDED, AnyShape, Schedule, scheduled
from compressctl.search.space import Candidate

TUNING = "tuning.log"

_MOST, _RANDOM = 8, 3
"""Trials, and how many of them are at random before any is foretold."""

_NAMES = ("learning_rate", "temperature", "teacher_weight", "rounded")


class Tuner:
    """shape: the network that is trained. epochs: of a whole training, brief: of a trial. training: what the user fixed. key_of: of everything
    that decides what a candidate gives: trials of another network or other data are others."""

    def __init__(
        self,
        folder: Path,
        shape: AnyShape,
        epochs: int,
        brief: int,
        training: Mapping[str, Any],
        key_of: Callable[[Candidate], str],
    ) -> None:
        """Raises MissingDependencyError, and UsageError where the file of an earlier start is damaged."""
        self._shape, self._epochs, self._brief, self._training = shape, epochs, brief, dict(training)
        self._study = _study(folder / TUNING, key_of(self.usual[0]))
        self._asked: dict[str, Any] = {}
        self._offered, self._is_over = 0, False

    @property
    def usual(self) -> tuple[Candidate, Candidate]:
        """A trial and a whole training as they are without tuning, to tell how long both take."""
        return self._candidate("", self._brief, self._usual()), self._candidate("", self._epochs, self._usual())

    def next(self, points: Mapping[str, Point], *, has_time: bool) -> Candidate | None:
        """What is tried next, by what came of those before; None where the search of schedules is over. has_time: for a trial and a whole
        training after it; without it the best so far is trained to the end."""
        for name, trial in list(self._asked.items()):
            if name in points:
                self._tell(trial, points[name])
            else:
                has_time = False  # it was left out
            del self._asked[name]
        known = self._study.get_trials(deepcopy=False)
        if self._offered < _MOST and not self._is_over and (has_time or self._offered < len(known)):
            return self._trial(known)
        if self._is_over:
            return None
        self._is_over = True
        return self._whole()

    def _trial(self, known: Sequence[Any]) -> Candidate:
        """One that an earlier start asked for, whose points the journal holds, or a new one."""
        from optuna.samplers import TPESampler

        number = self._offered
        self._offered += 1
        if number < len(known):
            trial, params = known[number].number, known[number].params
        else:
            # What proposes depends on the trials before and nothing else, so that a search that was stopped goes on as it would have.
            self._study.sampler = TPESampler(seed=number, n_startup_trials=_RANDOM, multivariate=True)
            if number == 0:
                self._study.enqueue_trial(self._usual())
            asked = self._study.ask(self._distributions())
            trial, params = asked.number, asked.params
        name = f"tuned{number + 1}-brief"
        self._asked[name] = trial
        return self._candidate(name, self._brief, params)

    def _tell(self, trial: int, point: Point) -> None:
        from optuna.trial import TrialState

        loss = point.figures.loss if point.figures is not None else None
        if loss is None or not math.isfinite(loss.value):
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(trial, loss.value, skip_if_finished=True)

    def _whole(self) -> Candidate | None:
        """The best schedule for all epochs; None where it is the usual one, which was trained so before."""
        scored = [one for one in self._study.get_trials(deepcopy=False) if one.value is not None]
        if not scored:
            return None
        best = min(scored, key=lambda one: (one.value, one.number))
        return None if best.params == self._usual() else self._candidate("tuned", self._epochs, best.params)

    def _candidate(self, name: str, epochs: int, params: Mapping[str, float]) -> Candidate:
        known = {**self._usual(), **params}
        rate = None if "learning_rate" in self._training else _short(known["learning_rate"])
        schedule = Schedule(
            rate, _short(known["temperature"]), _short(known["teacher_weight"]), _short(known["rounded"])
        )
        told = ", ".join(f"{name.replace('_', ' ')} {_short(known[name]):g}" for name in _NAMES if name in known)
        return scheduled(self._shape, name, epochs, self._training, schedule, told)

    def _usual(self) -> dict[str, float]:
        """What every training takes unless it is tuned."""
        rate = {} if "learning_rate" in self._training else {"learning_rate": LEARNING_RATE}
        return {**rate, "temperature": 4.0, "teacher_weight": 0.9, "rounded": ROUNDED if self._shape.bits == 4 else 0.0}

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import FloatDistribution

        every = {
            "learning_rate": FloatDistribution(LEARNING_RATE / 5, LEARNING_RATE * 5, log=True),
            "temperature": FloatDistribution(1.0, 10.0, log=True),
            "teacher_weight": FloatDistribution(0.5, 1.0),
            "rounded": FloatDistribution(0.1 if self._shape.bits == 4 else 0.0, 0.6),
        }
        return {name: every[name] for name in self._usual()}


def _short(value: float) -> float:
    """Three digits: as somebody would write it in a recipe."""
    return float(f"{value:.3g}")


def _study(path: Path, name: str) -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise MissingDependencyError("tuning of trainings", "optuna", "pip install 'compressctl[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="minimize")
    except (ValueError, KeyError, TypeError, UnicodeError) as error:
        raise UsageError(
            f"{path} is damaged ({error})", hint="remove it: what was measured is kept in journal/"
        ) from error
