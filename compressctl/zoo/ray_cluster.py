"""Jobs on a Ray cluster: each on whatever node has room, and on another where its node is lost."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

import compressctl
from compressctl.core.errors import (
    CompressctlError,
    MachineError,
    MissingDependencyError,
    UsageError,
    in_short,
    shortened,
    text_of,
)
from compressctl.core.machine import usable_cpus
from compressctl.zoo.keys import Planned
from compressctl.zoo.process import Surroundings, run_job, unstarted
from compressctl.zoo.ray_node import question, read_answer, run_on_node
from compressctl.zoo.results import JobResult, Outcome
from compressctl.zoo.schema import Resources
from compressctl.zoo.stopping import stopping_cleanly
from compressctl.zoo.stored import ZooStore

MOST_LOST = 3
"""So many nodes or workers are lost under one job at most: it may be what takes them along."""

_LOOK, _LOOK_AT_NODES = 0.5, 10.0
_LONGEST_WAIT = 900.0
"""Seconds for a node with room for a job that no node has room for: clusters grow."""

_LONGEST_KNOCK = 10.0
_HINT = (
    "`ray status` shows the cluster that this machine belongs to; its token, where it asks for one, comes from RAY_AUTH_TOKEN, "
    "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, with RAY_AUTH_MODE=token"
)
_LONGEST_WORDS = 600
_FEWEST_SENT = 16
_SMALLEST_STORE = 80 << 20
"""Bytes of Ray's object memory, through which nothing goes: the least that it takes."""


@dataclass(frozen=True)
class Cluster:
    """Where jobs run. address: of a cluster that there is; None for one on this machine that lives as long as the zoo runs.

    most: jobs that are handed over at a time; None: enough that nodes have something to do and a cluster that grows sees why.
    store: where nodes put results that do not see the zoo's folder.
    """

    address: str | None
    most: int | None
    store: ZooStore | None
    say: Callable[[str], None]

    def run(self, jobs: Iterator[Planned], around: Surroundings, tell: Callable[[JobResult], None]) -> None:
        """As run_local does. Whoever leaves at once disconnects: Ray then ends its workers, and with each its job.

        Raises MissingDependencyError, UsageError, MachineError.
        """
        waiting = next(jobs, None)
        if waiting is None:
            return
        with self._connected() as ray, stopping_cleanly(around):
            running = _Running(ray, around, self.store, can_grow=self.address is not None)
            while not around.stop_at_once.is_set() and (
                running.sent or (waiting is not None and not around.stop.is_set())
            ):
                while (
                    waiting is not None
                    and not around.stop.is_set()
                    and len(running.sent) < (self.most or running.enough)
                ):
                    if waiting.problem is not None:
                        tell(run_job(waiting, around))
                    else:
                        running.send(waiting)
                    waiting = next(jobs, None)
                for result in running.finished():
                    tell(result)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The library, connected. What it reads of the environment it reads when it is imported."""
        os.environ["RAY_COLOR_PREFIX"] = "0"
        if self.address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home folder
            os.environ.setdefault(
                "RAY_worker_niceness", "0"
            )  # else jobs give way to all other programs, also when timed
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError("--executor ray", "ray", "pip install 'compressctl[ray]'") from error
        with _signals_kept():
            self._connect(ray)
            try:
                cores = int(ray.cluster_resources().get("CPU", 0))
                self.say(f"Ray: {self._where}, {cores} core{'' if cores == 1 else 's'}")
                yield ray
            finally:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        if self.address is not None:
            _knock(self.address)
            options: dict[str, Any] = {"address": self.address}
        else:
            options = {
                "address": "local",
                "num_cpus": max(self.most or 1, len(usable_cpus())),
                "include_dashboard": False,
                "object_store_memory": _SMALLEST_STORE,
                "_memory": psutil.virtual_memory().total,
            }
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            hint = _HINT if self.address is not None else None
            # Which versions differ stands on several lines.
            said = shortened(" ".join(text_of(error).split()), _LONGEST_WORDS)
            raise MachineError(f"no connection to {self._where}: {said}", hint=hint) from error
        except SystemExit:  # of Ray's handler of SIGTERM
            raise KeyboardInterrupt from None

    @property
    def _where(self) -> str:
        return f"the cluster at {self.address}" if self.address is not None else "a local cluster, started for this run"


@dataclass
class _Sent:
    """A job that the cluster has. lost: what was lost under it before. roomless_since: when no node was large enough for it first."""

    planned: Planned
    lost: tuple[str, ...] = ()
    roomless_since: float | None = None


class _Running:
    """What was handed to the cluster and has not ended. Its memory does not grow with the zoo."""

    def __init__(self, ray: Any, around: Surroundings, store: ZooStore | None, *, can_grow: bool) -> None:
        self._ray, self._around, self._store, self._can_grow = ray, around, store, can_grow
        self._task = ray.remote(run_on_node)
        self._nodes, self._looked_at_nodes = self._alive(), time.monotonic()
        self._is_cancelled = False
        self.sent: dict[Any, _Sent] = {}

    @property
    def enough(self) -> int:
        """Jobs that keep all nodes busy. None that waits here costs a node anything."""
        return max(_FEWEST_SENT, 2 * int(sum(node.get("CPU", 0) for node in self._nodes)))

    def send(self, planned: Planned, lost: tuple[str, ...] = ()) -> None:
        wanted = _wanted(planned.job.resources)
        task = self._task.options(
            num_cpus=wanted.pop("CPU"),
            num_gpus=wanted.pop("GPU", 0),
            memory=wanted.pop("memory", None),
            resources=wanted,
            max_retries=0,
            name=planned.job.id,
        )
        asked = question(planned, self._around, self._store.address if self._store is not None else None)
        self.sent[task.remote(asked)] = _Sent(planned, lost)

    def finished(self) -> Iterator[JobResult]:
        """Results that have come, after a short wait for some. What was cancelled before it began has none."""
        self._cancel()
        yield from self._without_room()
        done, _ = self._ray.wait(list(self.sent), timeout=_LOOK) if self.sent else ([], [])
        for one in done:
            result = self._result(one, self.sent.pop(one))
            if result is not None:
                yield result

    def _result(self, one: Any, sent: _Sent) -> JobResult | None:
        """None where it was cancelled, or sent again. Raises MachineError for a node that cannot run jobs."""
        errors = self._ray.exceptions
        try:
            answer = read_answer(self._ray.get(one))
        except errors.TaskCancelledError:
            return None
        except errors.RayTaskError as error:
            raise MachineError(
                f"a node cannot run jobs: {str(error).strip().splitlines()[-1]}",
                hint=f"install compressctl {compressctl.__version__} and what its recipes need on every node",
            ) from error
        except errors.RayError as error:
            lost = (*sent.lost, _lost(error))
            if self._around.stop.is_set():
                return None
            if len(lost) < MOST_LOST:
                self.send(sent.planned, lost)
                return None
            message = f"{len(lost)} nodes or workers were lost under it; the last time: {lost[-1]}"
            return unstarted(sent.planned, Outcome.MACHINE, message).model_copy(update={"lost": lost})
        if answer.is_stored and self._store is not None:
            with suppress(CompressctlError):  # its pages stay where they are
                self._store.take(answer.result)
        return answer.result.model_copy(update={"lost": sent.lost})

    def _cancel(self) -> None:
        """Once when the whole stops. What runs then writes what it has, and its result still comes."""
        if self._around.stop.is_set() and not self._is_cancelled:
            self._is_cancelled = True
            for one in self.sent:
                self._ray.cancel(one)

    def _without_room(self) -> Iterator[JobResult]:
        """Jobs for which no node is large enough, and none came."""
        now = time.monotonic()
        if now - self._looked_at_nodes < _LOOK_AT_NODES:
            return
        self._nodes, self._looked_at_nodes = self._alive(), now
        for one, sent in list(self.sent.items()):
            wanted = _wanted(sent.planned.job.resources)
            if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in self._nodes):
                sent.roomless_since = None
                continue
            if sent.roomless_since is None:
                sent.roomless_since = now
            if not self._can_grow or now - sent.roomless_since > _LONGEST_WAIT:
                self._ray.cancel(one)
                del self.sent[one]
                asked = ", ".join(f"{name} {amount:,.10g}" for name, amount in wanted.items())
                yield unstarted(
                    sent.planned, Outcome.MACHINE, f"no node of the cluster is large enough: it asks for {asked}"
                )

    def _alive(self) -> list[dict[str, float]]:
        """What each node has, in use or not."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def _wanted(resources: Resources) -> dict[str, float]:
    """As Ray counts it."""
    memory = {"memory": float(resources.memory)} if resources.memory is not None else {}
    return {"CPU": float(resources.cores or 1), **memory, **(resources.ray or {})}


def _lost(error: BaseException) -> str:
    """Ray's word for it, and which node it was where Ray says so."""
    node = re.search(r"node ID: ([0-9a-f]{12})", str(error), re.IGNORECASE)
    return type(error).__name__ + (f", node {node[1]}" if node is not None else "")


def _knock(address: str) -> None:
    """Raises UsageError for an address of Ray's client, MachineError where nothing answers: Ray would try for a quarter of an hour."""
    if "://" in address:
        raise UsageError(
            f"{address}: zoos run from a node of the cluster, not through Ray's client or its page",
            hint="there, `--ray-address auto`; `ray job submit` starts it there",
        )
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _LONGEST_KNOCK).close()
    except (OSError, OverflowError) as error:
        raise MachineError(f"nothing answers at {address}: {in_short(error)}", hint=_HINT) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray ends the process at SIGTERM, also after it was shut down."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
