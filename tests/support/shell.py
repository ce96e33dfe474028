"""The command line in a process of its own, with a folder and a cache of its own."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import warm


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """The command line with a cache of its own and the plugin installed."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **more: str) -> warm.Running:
        """A process to wait for, or to kill."""
        return warm.start(warm.command_line, _brief(arguments), self.folder, {**self.environment, **more})

    def start_until(self, happened: Callable[[], bool], *arguments: str, **more: str) -> warm.Running:
        """A process in which something has happened, and which still runs."""
        process = self.start(*arguments, **more)
        while not happened():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        return process

    def run(self, *arguments: str, **more: str) -> Finished:
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate()
        finally:
            process.kill()
        return Finished(process.wait(), out, err)

    def recipe(self, name: str, stages: str, extra: str = "") -> str:
        text = f"""recipe: compressctl/v1
model: {{source: builtin, name: digits-resnet}}
data: {{source: digits, calibration: 100}}
stages:
{stages}
{extra}
"""
        (self.folder / name).write_text(text)
        return name

    def says(self, output: str, words: str) -> bool:
        """Whether a run's log holds these words by now."""
        log = self.folder / output / "events.jsonl"
        return log.exists() and words in log.read_text()

    def events(self, output: str) -> list[dict[str, Any]]:
        lines = (self.folder / output / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def report(self, output: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / output / "report.json").read_text())
        return found


def _brief(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """`apply` measures briefly unless the test asks for more: most tests are not about speed."""
    is_brief = arguments[0] != "apply" or "--measure" in arguments
    return arguments if is_brief else (*arguments, "--measure", "quick")
