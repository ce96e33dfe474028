"""Tasks of lm-eval asked of two bundles, each in a fresh process of its own, so that both get the same questions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressctl.core.bundle import Bundle, ServedText
from compressctl.core.errors import StageError, UsageError
from compressctl.core.events import Events
from compressctl.measure.child_process import ChildProcess
from compressctl.measure.results import TaskScore
from compressctl.sources.tokenizing import TOKENIZER

PACKAGE = "lm-eval"
_OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
"""Data that are in Hugging Face's cache are found there."""


@dataclass(frozen=True)
class Questions:
    """names: of tasks, groups and tags. limit: first samples of each task, all where None. shots: solved samples before a question, the
    task's own where None. folder: with tasks beside lm-eval's own, absolute."""

    names: tuple[str, ...]
    limit: int | None = None
    shots: int | None = None
    folder: Path | None = None

    @property
    def message(self) -> dict[str, Any]:
        folder = None if self.folder is None else str(self.folder)
        return {"names": list(self.names), "limit": self.limit, "shots": self.shots, "folder": folder}


def check_tasks(asked: Collection[Questions]) -> None:
    """Raises UsageError for tasks that lm-eval does not have or cannot load, and for data that are not on this machine."""
    if not asked:
        return
    evaluator = _Evaluator("")
    try:
        for questions in asked:
            evaluator.load(questions)
    finally:
        evaluator.end()


def score_tasks(
    questions: Questions,
    baseline: Bundle,
    compressed: Bundle,
    bundler: str,
    text: ServedText,
    threads: int,
    events: Events,
) -> tuple[TaskScore, ...]:
    """bundler: `"module:attribute"` of what opens them.

    Raises StageError where the tool or lm-eval refuses, and CrashError where either ends the process.
    """
    before, after = (
        _scored(questions, bundle, bundler, text, threads, events, f"scoring the {name} bundle on tasks")
        for name, bundle in (("float", baseline), ("compressed", compressed))
    )
    made = []
    for key, old in before.items():
        new = after.get(key, {"value": None, "error": None})
        same = {name: value for name, value in old.items() if name not in ("value", "error")}
        made.append(
            TaskScore(
                **same,
                baseline=old["value"],
                compressed=new["value"],
                baseline_error=old["error"],
                compressed_error=new["error"],
            )
        )
    return tuple(made)


def _scored(
    questions: Questions, bundle: Bundle, bundler: str, text: ServedText, threads: int, events: Events, doing: str
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By task, metric and filter."""
    evaluator = _Evaluator(bundle.backend)
    try:
        evaluator.load(questions)
        prefix = text.end_tokens[0] if text.start_token is None else text.start_token
        opened = {"open": str(bundle.folder.resolve()), "bundle": bundler, "threads": threads}
        words = str((text.folder / TOKENIZER).resolve())
        limits = {"tokenizer": words, "prefix": prefix, "ends": list(text.end_tokens), "longest": text.context_length}
        evaluator.ask({**opened, **limits}, "opening a bundle for tasks")
        answer = evaluator.ask({"score": True}, doing, events)
    finally:
        evaluator.end()
    return {(one["task"], one["metric"], one["filter"]): one for one in answer["scores"]}


class _Evaluator:
    """A process for tasks and one bundle."""

    def __init__(self, backend: str) -> None:
        self._process, self._backend = ChildProcess("compressctl.measure.lm_eval_worker", _OFFLINE), backend
        self.end = self._process.end

    def load(self, questions: Questions) -> None:
        self.ask({"load": questions.message}, "loading lm-eval's tasks")

    def ask(self, question: dict[str, Any], doing: str, events: Events | None = None) -> dict[str, Any]:
        self._process.tell(question)
        while True:
            answer, _ = self._process.hear(doing, self._backend)
            if "error" in answer:
                kind = UsageError if answer["is_usage"] else StageError
                raise kind(
                    answer["error"] if answer["is_usage"] else f"{doing}: {answer['error']}", hint=answer["hint"]
                )
            if "done" not in answer:
                return answer
            if events is not None:
                events.progress(doing, answer["done"], answer["of"])
