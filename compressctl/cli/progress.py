"""The live view of a run on a terminal: one line per step, a bar for the one that works."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from compressctl.cli.screen import Screen
from compressctl.core.events import Event
from compressctl.pipeline.plan import Plan


class LiveView:
    """A context manager that gives a listener."""

    def __init__(self, plan: Plan) -> None:
        self._console = Screen()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[what]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        step = event.step or ""
        if event.kind == "step.started":
            self._tasks[step] = self._progress.add_task(f"{step} ({event.fields['use']})", total=None, what="")
        elif step in self._tasks and event.kind == "step.progress":
            task = self._progress.tasks[self._tasks[step]]
            self._progress.update(
                task.id, completed=event.fields["done"], total=event.fields["total"], what=event.fields["what"]
            )
        elif step in self._tasks and event.kind == "step.finished":
            task = self._progress.tasks[self._tasks[step]]
            what = "from the cache" if event.fields.get("cached") else "done"
            self._progress.update(task.id, total=1, completed=1, what=what)
        elif event.kind in ("note", "warning"):
            self._console.print(
                f"{step}: {event.fields['message']}" if step else f"warning: {event.fields['message']}", markup=False
            )
