"""The command line in a process of its own, with a folder and a cache of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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

    def start(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """A process to wait for, or to kill."""
        with _ctrl_c_works():
            return subprocess.Popen(
                [sys.executable, "-m", "compressctl.cli.main", *_brief(arguments)],
                cwd=self.folder,
                env={**self.environment, **more},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def start_until(self, happened: Callable[[], bool], *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """A process in which something has happened, and which still runs."""
        process = self.start(*arguments, **more)
        while not happened():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        return process

    def run(self, *arguments: str, **more: str) -> Finished:
        """`apply` without settings of its own starts in a process that has imported everything already."""
        if arguments[0] == "apply" and not more and sys.platform == "linux":
            return self._run_warm(_brief(arguments))
        process = self.start(*arguments, **more)
        try:
            out, err = process.communicate()
        finally:
            process.kill()
        return Finished(process.returncode, out, err)

    def _run_warm(self, arguments: tuple[str, ...]) -> Finished:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            code = warm.run(list(arguments), self.folder, self.environment, out, err)
            return Finished(code, out.read_text(), err.read_text())

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


@contextlib.contextmanager
def _ctrl_c_works() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and a process that ignores it starts others that do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _brief(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """`apply` measures briefly unless the test asks for more: most tests are not about speed."""
    is_brief = arguments[0] != "apply" or "--measure" in arguments
    return arguments if is_brief else (*arguments, "--measure", "quick")
