"""A fresh process that scores one bundle on tasks: `python -m compressctl.measure.lm_eval_worker`, see child_process.py.

Each message asks for one thing: {"load": what `Questions.message` says} loads tasks; {"open": folder, "bundle": where its code is, "threads": n,
"tokenizer": file, "prefix": token, "ends": tokens, "longest": n} opens a bundle; {"score": true} scores it, and is answered by {"done": n, "of": m} again and again before
{"scores": [...]}.
"""

from __future__ import annotations

import difflib
import os
import random
import sys
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.bundle import BundleSession
from compressctl.core.errors import CompressctlError, StageError, UsageError, in_short
from compressctl.core.registry import load
from compressctl.measure.frames import answers, receive, send
from compressctl.measure.lm_eval_model import BundleModel, Tell, check_greedy
from compressctl.sources.tokenizing import Tokenizer

_SEED = 1234
"""lm-eval's own, of the solved samples that it draws and of all else that is random."""
_RESAMPLED = 1000
"""Resamplings for standard errors that no formula gives."""


class _Worker:
    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._asked: Mapping[str, Any] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._model: BundleModel | None = None

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if "load" in asked:
            self._asked = asked["load"]
            random.seed(_SEED)
            np.random.seed(_SEED)
            self._tasks = _loaded(self._asked)
        elif "open" in asked:
            folder = Path(asked["open"])
            session: BundleSession = load(asked["bundle"]).open(folder, asked["threads"])
            tokenizer = Tokenizer(Path(asked["tokenizer"]), "lm-eval's tasks")
            told = (asked["prefix"], asked["ends"], asked["longest"])
            self._model = BundleModel(session, tokenizer, *told, self._tell)
        else:
            assert self._model is not None
            return {"scores": _scores(self._model, self._tasks, self._asked["limit"])}
        return {}


def _loaded(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What lm-eval's manager makes of each name: tasks, and the groups that they are in. Raises UsageError."""
    if asked["folder"] is not None:
        os.chdir(asked["folder"])  # data that tasks name by relative paths lie there
    manager = _manager(asked["names"], asked["folder"])
    found = {}
    for name in asked["names"]:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, 3)
            raise UsageError(
                f"lm-eval has no task {name}",
                hint=f"did you mean {', '.join(near)}?"
                if near
                else "`lm_eval ls tasks` lists its own; files of include_path that are no YAML are left out",
            )
        try:
            found[name] = manager.load([name])
        except Exception as error:
            raise _unloadable(name, error) from error
        for task in found[name]["tasks"].values():
            _prepare(task, asked["shots"])
    return found


def _manager(names: list[str], folder: str | None) -> Any:
    """lm-eval's own tasks are thousands of files, which are read where one is asked for alone."""
    from lm_eval.tasks import TaskManager

    if folder is not None:
        own = TaskManager(include_path=folder, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=folder)


def _unloadable(name: str, error: Exception) -> UsageError:
    # Of huggingface_hub and datasets, several of them under other errors.
    said = f"{in_short(error)} {in_short(error.__cause__) if error.__cause__ else ''}"
    if isinstance(error, ConnectionError) or "offline" in said.lower():
        return UsageError(
            f"the data of lm-eval's task {name} are not on this machine, and nothing is downloaded: {in_short(error)}",
            hint=f"bring them once with `python -c \"from lm_eval.tasks import TaskManager; TaskManager().load(['{name}'])\"`, or give a task of "
            "your own with its data (include_path)",
        )
    return UsageError(f"lm-eval cannot load the task {name}: {in_short(error)}", hint="mend its YAML file, or its data")


def _prepare(task: Any, shots: int | None) -> None:
    """As lm-eval's own command does it: a task that says 0 keeps it."""
    try:
        check_greedy(task.get_config("generation_kwargs") or {})
    except UsageError as error:
        error.message = f"lm-eval's task {task.task_name}: {error.message}"
        raise
    said = task.get_config("num_fewshot")
    if said is None or (shots is not None and said != 0):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_SEED)


def _scores(model: BundleModel, tasks: Mapping[str, dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    from lm_eval import evaluate

    asked: dict[str, Any] = {"tasks": {}, "groups": {}}
    for part in tasks.values():
        asked["tasks"] |= part["tasks"]
        asked["groups"] |= part.get("groups", {})
    try:
        results = evaluate(model, asked, limit=limit, bootstrap_iters=_RESAMPLED, log_samples=False)
    except CompressctlError:
        raise
    except Exception as error:
        raise StageError(f"lm-eval cannot score {', '.join(tasks)}: {in_short(error)}") from error
    return [score for name, part in tasks.items() for score in _of_task(name, list(part["tasks"]), results)]


def _of_task(name: str, leaves: list[str], results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """By each of its metrics; of each task in it, where it is a group or a tag without a score of its own."""
    own = list(_of_entry(name, leaves, results))
    yield from own or (score for leaf in leaves for score in _of_entry(leaf, [leaf], results))


def _of_entry(name: str, leaves: list[str], results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    entry = results["results"].get(name, {})
    for key, value in entry.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float | np.number):
            continue
        error = entry.get(f"{metric}_stderr,{filter_name}")
        better = results["higher_is_better"].get(name, {}).get(metric)
        yield {
            "task": name,
            "metric": metric,
            "filter": filter_name,
            "samples": sum(results["n-samples"][leaf]["effective"] for leaf in leaves),
            "shots": results["n-shot"].get(name),
            "higher_is_better": better is not False,
            "value": _number(value),
            "error": _number(error),
        }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number) and isfinite(value) else None


def main() -> None:
    channel = answers()
    worker = _Worker(lambda done, count: send(channel, {"done": done, "of": count}))
    while (message := receive(sys.stdin.buffer)) is not None:
        try:
            answer = worker.answer(message[0])
        except CompressctlError as error:
            send(channel, {"error": error.message, "hint": error.hint, "is_usage": isinstance(error, UsageError)})
        except Exception as error:  # the serving tool's own; the other side says what was asked
            send(channel, {"error": in_short(error), "hint": None, "is_usage": False})
        else:
            send(channel, answer)


if __name__ == "__main__":
    main()
