"""The command line in a process of its own, with a folder and a cache of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        """`apply` measures briefly unless the test asks for more: most tests are not about speed."""
        if arguments[0] == "apply" and "--measure" not in arguments:
            arguments = (*arguments, "--measure", "quick")
        return subprocess.Popen(
            [sys.executable, "-m", "compressctl.cli.main", *arguments],
            cwd=self.folder,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> Finished:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=240)
        return Finished(process.returncode, out, err)

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

    def events(self, output: str) -> list[dict[str, Any]]:
        lines = (self.folder / output / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def report(self, output: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / output / "report.json").read_text())
        return found
