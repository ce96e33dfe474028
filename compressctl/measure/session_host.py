"""Files opened and run in a child process, where native code may crash without taking this one along."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from compressctl.core import errors
from compressctl.core.backend import Artifact, ExecutedNode
from compressctl.core.errors import CompressctlError, CrashError, StageError
from compressctl.core.target import Target
from compressctl.measure.child_process import ChildProcess
from compressctl.measure.quick_latency import Timing
from compressctl.measure.turns import packed


class SessionHost:
    """One child process for any number of sessions. It starts when something is first asked of it, and again after a crash.

    A session that was open when another one crashed is opened again when it is next used.
    """

    def __init__(self, *, locates: bool = True) -> None:
        """locates: whether a crash is looked into, so that the message names the node; see crash.py."""
        self._locates = locates
        self._process: ChildProcess | None = None
        self._generation = 0
        self._unused: list[tuple[int, int]] = []

    def open(self, artifact: Artifact, target: Target, keep: object = None) -> HostedSession:
        """keep: whatever must live as long as the session, such as the folder that the file lies in.

        Raises what the backend's `open` raises, and CrashError when the process ends.
        """
        return HostedSession(self, artifact, target, keep)

    def explain(
        self, artifact: Artifact, target: Target, inputs: Mapping[str, Sequence[int]] | None = None
    ) -> list[ExecutedNode]:
        """As the backend's `explain`. Raises what that raises, and CrashError."""
        question = {"explain": _plain(artifact), "target": asdict(target), "inputs": inputs}
        try:
            answer, _ = self.ask(question, f"opening {artifact.path.name}", backend=artifact.backend)
        except CrashError as error:
            raise self.located(error, artifact, target, None) from None
        return [ExecutedNode(**node) for node in answer["nodes"]]

    def time_in_turn(
        self, sessions: Sequence[HostedSession], inputs: Sequence[Sequence[Mapping[str, np.ndarray]]]
    ) -> Timing:
        """The sessions' latencies, interleaved in the child process; see quick_latency. inputs: by session, one call's, or several calls', of which
        the mean is taken. Raises CrashError."""
        numbers, names = self._prepared(sessions, inputs)
        answer, _ = self.ask({"time": numbers}, f"timing {names}", backend=sessions[0].backend)
        each = (ms / len(given) for ms, given in zip(answer["ms"], inputs, strict=True))
        return Timing(tuple(each), answer["spread"])

    def joules_in_turn(
        self, sessions: Sequence[HostedSession], inputs: Sequence[Sequence[Mapping[str, np.ndarray]]], device: str
    ) -> tuple[float, ...]:
        """What a call of each takes, interleaved. Raises CrashError, and MachineError where nothing counts the device's energy."""
        numbers, names = self._prepared(sessions, inputs)
        asked = {"count": numbers, "device": device}
        answer, _ = self.ask(asked, f"counting the energy of {names}", backend=sessions[0].backend)
        return tuple(joules / len(given) for joules, given in zip(answer["joules"], inputs, strict=True))

    def _prepared(
        self, sessions: Sequence[HostedSession], inputs: Sequence[Sequence[Mapping[str, np.ndarray]]]
    ) -> tuple[list[int], str]:
        """The sessions' numbers, each with its calls, and their names."""
        numbers = [session.number() for session in sessions]
        for session, number, given in zip(sessions, numbers, inputs, strict=True):
            session.ask({"repeat": number}, packed(given))
        return numbers, " and ".join(dict.fromkeys(session.name for session in sessions))

    @property
    def generation(self) -> int:
        """Grows whenever the process ends: what was open in it is open no more."""
        return self._generation

    def located(
        self, error: CrashError, artifact: Artifact, target: Target, inputs: Mapping[str, np.ndarray] | None
    ) -> CrashError:
        """The crash with the node that it happens on, where that can be found. inputs: None where opening was enough."""
        if not self._locates:
            return error
        from compressctl.measure.crash import with_node

        return with_node(error, artifact, target, inputs)

    def ask(
        self,
        question: Mapping[str, Any],
        doing: str,
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        backend: str,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """doing: what is said to have been going on where the process ends, as in "opening m.onnx"."""
        self.close_unused()
        answer, given = self._exchange(question, doing, arrays, backend)
        if "error" in answer:
            raise _raised(answer)
        return answer, given

    def _exchange(
        self, question: Mapping[str, Any], doing: str, arrays: Mapping[str, np.ndarray] | None, backend: str
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if self._process is None:
            self._process = ChildProcess("compressctl.measure.session_worker")
        self._process.tell(question, arrays)
        try:
            return self._process.hear(doing, backend)
        except CrashError:
            self.close()
            raise

    def close_unused(self) -> None:
        """Close the sessions that nobody holds any more."""
        while self._unused:
            number, generation = self._unused.pop()
            if generation == self._generation:
                self._exchange({"close": number}, "closing a file", None, "runtime")

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.end()
        self._process = None
        self._generation += 1

    def forget(self, number: int, generation: int) -> None:
        """Nobody holds a session any more. It is closed later: this may be called in the midst of a question."""
        self._unused.append((number, generation))

    def __enter__(self) -> SessionHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HostedSession:
    """A `Session` whose file is open in a child process."""

    def __init__(self, host: SessionHost, artifact: Artifact, target: Target, keep: object) -> None:
        self._host, self._artifact, self._target, self._keep = host, artifact, target, keep
        self.name, self.backend = artifact.path.name, artifact.backend
        self._number, self._generation = -1, -1
        self.number()

    def number(self) -> int:
        """The session's name in the process of now; it is opened there where it is not."""
        if self._generation != self._host.generation:
            question = {"open": _plain(self._artifact), "target": asdict(self._target)}
            answer, _ = self.ask(question, None, f"opening {self.name}")
            self._number, self._generation = answer["number"], self._host.generation
            weakref.finalize(self, self._host.forget, self._number, self._generation)
        return self._number

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for one batch. Raises what the backend raises, and CrashError."""
        _, outputs = self.ask({"run": self.number()}, inputs)
        return outputs

    def ask(
        self, question: Mapping[str, Any], inputs: Mapping[str, np.ndarray] | None, doing: str | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Raises what the backend raises, and CrashError with the node, where that can be found."""
        try:
            return self._host.ask(question, doing or f"running {self.name}", inputs, backend=self.backend)
        except CrashError as error:
            raise self._host.located(error, self._artifact, self._target, inputs) from None

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """The call with its way to the child process and back; `SessionHost.time_in_turn` times the runtime alone."""
        return lambda: self.run(inputs)


def _plain(artifact: Artifact) -> dict[str, Any]:
    return {"backend": artifact.backend, "path": str(artifact.path)}


def _raised(answer: Mapping[str, Any]) -> CompressctlError:
    kind = getattr(errors, str(answer["error"]), StageError)
    if (
        not (isinstance(kind, type) and issubclass(kind, CompressctlError))
        or kind.__init__ is not CompressctlError.__init__
    ):
        kind = StageError
    return kind(answer["message"], hint=answer["hint"])
