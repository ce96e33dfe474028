"""The driver's side of timing alone: its jobs stand still while a process of one of them, or of anybody else, is timed."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from compressctl.measure.alone import MOST_DRIVERS, address, is_possible


class Pauses:
    """Process groups that are stopped while somebody times. Used by several threads.

    A connection comes from whoever times. All groups but its own are stopped, and it is answered; when it ends, they go on.
    Where no socket is to be had, nothing is ever stopped: see `reason`.
    """

    def __init__(self) -> None:
        self._change = threading.Lock()
        self._groups: dict[int, _Clock] = {}
        self._stopping: int | None = None
        """The process group that times; 0 for one that is none of ours."""
        self._socket = _listening()
        self.reason = (
            None if self._socket else "timings are not alone: this system has no sockets for it, or all are taken"
        )
        if self._socket is not None:
            threading.Thread(target=self._serve, args=(self._socket,), daemon=True).start()

    def add(self, group: int) -> None:
        """A process group that was just started."""
        with self._change:
            self._groups[group] = _Clock()
            if self._stopping not in (None, group):
                self._groups[group].stop(group)

    def remove(self, group: int) -> None:
        with self._change:
            self._groups.pop(group, None)

    def seconds(self, group: int) -> float:
        """How long it has stood still so far."""
        with self._change:
            clock = self._groups.get(group)
            return clock.seconds() if clock is not None else 0.0

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                self._stop(_group_of(connection))
                try:
                    with suppress(OSError):
                        connection.sendall(b".")
                        connection.recv(1)  # it says nothing, and ends
                finally:
                    self._go_on()

    def _stop(self, timing: int) -> None:
        with self._change:
            self._stopping = timing
            for group, clock in self._groups.items():
                if group != timing:
                    clock.stop(group)

    def _go_on(self) -> None:
        with self._change:
            self._stopping = None
            for group, clock in self._groups.items():
                clock.go_on(group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self._go_on()


class _Clock:
    """Of one group: how long it stood still."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._since: float | None = None

    def stop(self, group: int) -> None:
        if self._since is None and _send(group, signal.SIGSTOP):
            self._since = time.monotonic()

    def go_on(self, group: int) -> None:
        if self._since is not None:
            self._sum += time.monotonic() - self._since
            self._since = None
            _send(group, signal.SIGCONT)

    def seconds(self) -> float:
        return self._sum + (time.monotonic() - self._since if self._since is not None else 0.0)


def _send(group: int, what: signal.Signals) -> bool:
    try:
        os.killpg(group, what)
    except OSError:  # it has ended
        return False
    return True


def _listening() -> socket.socket | None:
    """At the first address that no other driver has."""
    for number in range(MOST_DRIVERS if is_possible() else 0):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address(f"jobs-{number}"))
            listener.listen(MOST_DRIVERS)
        except OSError:
            listener.close()
            continue
        return listener
    return None


def _group_of(connection: socket.socket) -> int:
    """The process group of whoever connected; 0 where it has ended."""
    asked = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    process, _, _ = struct.unpack("3i", asked)
    try:
        return os.getpgid(process)
    except OSError:
        return 0
