"""A fresh process that serves one bundle: `python -m compressctl.measure.generation_worker`, see child_process.py.

Each message asks for one thing: {"open": folder, "bundle": where its code is, "threads": n}; {"generate": n} continues the prompt that comes
with it; {"logits": true} scores the tokens that come with it; {"memory": true} gives the peaks so far.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.bundle import BundleSession
from compressctl.core.errors import CompressctlError, in_short
from compressctl.core.registry import load
from compressctl.measure.frames import answers, receive, send
from compressctl.measure.peak import peak_bytes


class _Worker:
    def __init__(self) -> None:
        self._session: BundleSession | None = None
        self._before = self._loaded = 0

    def answer(self, asked: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], Any]:
        if "open" in asked:
            bundler = load(asked["bundle"])
            bundler.warm_up()
            self._before = peak_bytes()
            self._session = bundler.open(Path(asked["open"]), asked["threads"])
            self._loaded = peak_bytes()
            return {}, {}
        if "memory" in asked:
            return {"before": self._before, "loaded": self._loaded, "now": peak_bytes()}, {}
        assert self._session is not None
        tokens = arrays["tokens"].tolist()
        if "logits" in asked:
            return {}, {"logits": self._session.logits(tokens)}
        found = self._session.generate(tokens, asked["generate"])
        times = {"first": found.first_seconds, "rest": found.rest_seconds}
        return times, {"tokens": np.array(found.tokens, np.int64)}


def main() -> None:
    channel, worker = answers(), _Worker()
    while (message := receive(sys.stdin.buffer)) is not None:
        try:
            answer, arrays = worker.answer(*message)
        except CompressctlError as error:
            send(channel, {"error": error.message, "hint": error.hint})
        except Exception as error:  # the tool's own; the other side says what was asked
            send(channel, {"error": f"{type(error).__name__}: {in_short(error)}", "hint": None})
        else:
            send(channel, answer, arrays)


if __name__ == "__main__":
    main()
