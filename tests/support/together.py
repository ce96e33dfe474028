"""Several warm processes that find each other as those do that torchrun starts, without its seconds of starting up."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support import warm
from torch.distributed import TCPStore


def run_together(
    count: int, function: Callable[..., None], arguments: tuple[Any, ...], folder: Path, environment: Mapping[str, str]
) -> list[warm.Running]:
    """Start them and wait for their end."""
    with Together(count, function, arguments, folder, environment) as processes:
        for process in processes:
            process.wait()
    return processes


class Together:
    """A context manager that gives the processes, first of all the one that leads, and kills who is left."""

    def __init__(
        self,
        count: int,
        function: Callable[..., None],
        arguments: tuple[Any, ...],
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        # The system chooses the port, and the store listens on it at once: nobody can take it in between.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        group = {
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "OMP_NUM_THREADS": "1",
        }
        self._processes = [
            warm.start(function, arguments, folder, {**environment, **group, "RANK": rank, "LOCAL_RANK": rank})
            for rank in map(str, range(count))
        ]

    def __enter__(self) -> list[warm.Running]:
        return self._processes

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
