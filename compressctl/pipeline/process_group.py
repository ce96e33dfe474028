"""Several processes that train together: the first leads the run, the others take part in the stages that train."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressctl.core.errors import MissingDependencyError
from compressctl.core.technique import RunContext
from compressctl.core.undeclared import Undeclared

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""What launchers tell the processes that they start: torchrun and accelerate, Open MPI, MPICH, MVAPICH."""

_PATIENCE = timedelta(days=7)
"""How long the others wait while the leader measures; where it dies, the launcher ends them."""

_FAREWELL = timedelta(seconds=60)
"""How long the leader waits for the others to hear that the run ended; after its exit the launcher ends who did not."""


def rank() -> int:
    """This process's number, 0 for the one that leads and where there is only one."""
    return _first_number(_RANKS, 0)


def is_launched() -> bool:
    """Whether a launcher started several processes. Imports nothing."""
    return _first_number(_SIZES, 1) > 1


@dataclass
class ProcessGroup:
    """index: this process, of `count`. Messages go through the launcher's store, so that the leader never waits for anyone."""

    index: int
    count: int
    _store: Store
    _orders: int = 0
    _values: int = 0

    def hand_out(self, stage: str, folder: Path) -> None:
        """Tell the others to take part in a stage. folder: where its model was written, on a disk that all see."""
        self._say(f"order/{self._orders}", {"stage": stage, "folder": str(folder.resolve())})
        self._orders += 1

    def end(self, exit_code: int) -> None:
        """Tell the others to leave, and wait for them a little: the store may live in this process."""
        self._say(f"order/{self._orders}", {"exit": exit_code})
        with suppress(Exception):
            self._store.wait([f"left/{index}" for index in range(1, self.count)], _FAREWELL)

    def next_order(self, patience: timedelta = _PATIENCE) -> dict[str, Any]:
        """What the leader wants next: {"stage", "folder"} or {"exit"}."""
        order: dict[str, Any] = self._hear(f"order/{self._orders}", patience)
        self._orders += 1
        return order

    def leave(self) -> None:
        self._store.set(f"left/{self.index}", "1")

    def tell(self, value: Any) -> None:
        """Give the others a value that only the leader can find out, as a measured latency."""
        self._say(f"value/{self._values}", value)
        self._values += 1

    def hear(self) -> Any:
        """The leader's next value."""
        value = self._hear(f"value/{self._values}", _PATIENCE)
        self._values += 1
        return value

    def _say(self, key: str, value: Any) -> None:
        self._store.set(key, json.dumps(value))

    def _hear(self, key: str, patience: timedelta) -> Any:
        self._store.wait([key], patience)
        return json.loads(self._store.get(key))


def assemble() -> ProcessGroup:
    """Meet the other processes that the launcher started. Raises MissingDependencyError."""
    if find_spec("accelerate") is None:
        raise MissingDependencyError("a run in several processes", "accelerate", "pip install 'compressctl[torch]'")
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    from compressctl.training.processes import meet

    state = meet()
    store = PrefixStore("compressctl", _get_default_store())
    return ProcessGroup(state.process_index, state.num_processes, store)


def telling(context: RunContext, process_group: ProcessGroup) -> RunContext:
    """The leader's side: each measured value is told to the others."""

    def told(measure: Any) -> Any:
        def measured(*arguments: Any) -> Any:
            value = measure(*arguments)
            process_group.tell(value)
            return value

        return measure if measure is None or isinstance(measure, Undeclared) else measured

    return replace(
        context,
        score=told(context.score),
        baseline_score=told(context.baseline_score),
        latency_ms=told(context.latency_ms),
        latency_in=_each(context.latency_in, told),
        joules=told(context.joules),
    )


def _each(clock_in: Any, told: Callable[[Any], Any]) -> Any:
    """Clocks of other runtimes, each of which is told."""
    if clock_in is None or isinstance(clock_in, Undeclared):
        return clock_in
    return lambda name: told(clock_in(name))


def _first_number(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
