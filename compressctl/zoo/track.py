"""Results of a zoo in MLflow: a run for each job, whatever became of it, with its figures and its report.

Where they go is MLflow's own affair: MLFLOW_TRACKING_URI, and MLFLOW_EXPERIMENT_NAME or else the zoo's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError, UsageError, in_short
from compressctl.core.secrets import for_others
from compressctl.zoo.results import JobResult, Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # jobs go on while a server is away; what it did not hear is in the zoo's folder
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_FIGURES = (
    "smaller", "size_before", "size_after", "speed", "speed_low", "speed_high", "score_before", "score_after", "sqnr_db", "cosine",
)  # fmt: skip
_ARTIFACTS = ("report.json", "report.html", "recipe.lock.yaml")
_LONGEST = 500
"""Characters of a parameter, as MLflow's servers take them."""


class Tracker:
    """Tells one server. What it does not take is said once, and nothing is told to it any more."""

    def __init__(self, zoo: str, folder: Path, warn: Callable[[str], None]) -> None:
        """folder: the zoo's. Raises MissingDependencyError, and UsageError where the server takes nothing from the start."""
        self._zoo, self._folder, self._warn = zoo, folder, warn
        self._client: MlflowClient | None = _client()
        try:
            self._experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or zoo)
        except Exception as error:
            hint = "MLFLOW_TRACKING_URI names the server; without `track` results are in the zoo's folder alone"
            raise UsageError(f"MLflow cannot be told: {in_short(error)}", hint=hint) from error

    def log(self, result: JobResult) -> None:
        """Raises nothing."""
        if self._client is None:
            return
        try:
            self._log(self._client, result)
        except Exception as error:
            self._client = None
            self._warn(f"MLflow was told nothing of {result.job} and of what came after it: {in_short(error)}")

    def _log(self, client: MlflowClient, result: JobResult) -> None:
        from mlflow.entities import Metric, Param

        begun = client.create_run(
            self._experiment, int(result.started * 1000), {**self._tags(result), "mlflow.runName": result.job}
        )
        run, ended = begun.info.run_id, int((result.started + result.seconds) * 1000)
        said = for_others(result.model_dump(mode="json"))
        params = [Param(key, str(said[key])[:_LONGEST]) for key in ("model", "recipe", "why", "key")]
        metrics = [
            Metric(name, float(value), ended, 0) for name, value in _metrics(result).items() if value is not None
        ]
        client.log_batch(run, metrics, params)
        if result.run is not None:
            for name in _ARTIFACTS:
                file = self._folder / result.run / name
                if file.is_file():
                    client.log_artifact(run, str(file))
        client.set_terminated(run, "FINISHED" if result.outcome in (Outcome.GOOD, Outcome.MISSED) else "FAILED", ended)

    def _tags(self, result: JobResult) -> dict[str, str]:
        return {
            "zoo": self._zoo,
            "outcome": str(result.outcome),
            "host": result.host,
            "message": result.message[:_LONGEST],
        }


def _metrics(result: JobResult) -> dict[str, float | None]:
    """What was not measured is not there: unknown is never 0."""
    figures = {} if result.figures is None else {name: getattr(result.figures, name) for name in _FIGURES}
    return {"seconds": result.seconds, "peak_memory": result.peak_memory, **figures}


def _client() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingDependencyError("`track: mlflow`", "mlflow", "pip install 'compressctl[mlflow]'") from error
    return MlflowClient()


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))
