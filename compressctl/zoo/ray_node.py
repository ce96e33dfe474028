"""What a Ray cluster's nodes do of a zoo: one job, in processes of its own as on any machine. Questions and answers are short JSON."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import compressctl
from compressctl.core.errors import CompressctlError, MachineError
from compressctl.store.address import Address, parse
from compressctl.store.cache_place import SHARED, SHARED_MODE, use_shared_cache
from compressctl.zoo.keys import Planned
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings, run_job
from compressctl.zoo.results import MARK, JobResult, Outcome
from compressctl.zoo.stopping import stopped_by_errors
from compressctl.zoo.stored import ZooStore

_LOOK = 0.2
_PLANNED = TypeAdapter(Planned)


@dataclass(frozen=True)
class Answer:
    """is_stored: whether the node put the job's files into the store, since it does not see the zoo's folder."""

    result: JobResult
    is_stored: bool


def question(planned: Planned, around: Surroundings, store: Address | None) -> str:
    """What `run_on_node` takes. store: for nodes that do not see the zoo's folder, which others find under the same path."""
    return json.dumps(
        {
            "compressctl": compressctl.__version__,
            "folder": str(around.folder.absolute()),
            "store": store.text if store is not None else None,
            "shared_cache": [os.environ.get(SHARED), os.environ.get(SHARED_MODE)],
            "measure": around.measure,
            "is_cached": around.is_cached,
            "is_strict": around.is_strict,
            "retries": around.retries,
            "planned": _PLANNED.dump_python(planned, mode="json"),
        }
    )


def read_answer(text: str) -> Answer:
    """What `run_on_node` gave. Raises MachineError for a node that cannot run the zoo's jobs."""
    read = json.loads(text)
    if "unfit" in read:
        raise MachineError(read["unfit"])
    return Answer(JobResult.model_validate(read["result"]), read["is_stored"])


def run_on_node(asked: str) -> str:
    """The body of a Ray task. Ray interrupts the one that is to stop; the job then writes what it has."""
    read = json.loads(asked)
    folder, store = Path(read["folder"]), parse(read["store"]) if read["store"] is not None else None
    unfit = _unfit(read["compressctl"], folder, store)
    if unfit is not None:
        return json.dumps({"unfit": f"{_node()}: {unfit}"})
    use_shared_cache(*read["shared_cache"])
    try:
        if (folder / MARK).exists():
            result, is_stored = _result(read, folder), False
        else:
            assert store is not None
            result, is_stored = _stored_result(read, store)
    except OSError as error:
        return json.dumps({"unfit": f"{_node()}: {error}"})
    return json.dumps({"result": result.model_dump(mode="json"), "is_stored": is_stored})


def _stored_result(read: dict[str, Any], store: Address) -> tuple[JobResult, bool]:
    """In a folder of the job's own, which ends with it, and whether the store took what is in it."""
    with tempfile.TemporaryDirectory(prefix="compressctl-zoo-") as own:
        result = _result(read, Path(own))
        try:
            ZooStore(store, Path(own)).put(result)
        except CompressctlError as error:
            message = f"its files are not in the store: {error.message}"
            return result.model_copy(update={"outcome": Outcome.MACHINE, "message": message, "report": None}), False
        return result, True


def _result(read: dict[str, Any], folder: Path) -> JobResult:
    with Pauses() as pauses:
        around = Surroundings(
            folder,
            read["measure"],
            read["is_cached"],
            read["retries"],
            pauses,
            threading.Event(),
            threading.Event(),
            read["is_strict"],
        )
        result = _interruptible(_PLANNED.validate_python(read["planned"]), around)
    return result.model_copy(update={"host": _node()})


def _interruptible(planned: Planned, around: Surroundings) -> JobResult:
    with ThreadPoolExecutor(1) as pool, stopped_by_errors(around):
        running = pool.submit(run_job, planned, around)
        while True:
            try:
                with suppress(TimeoutError):
                    return running.result(_LOOK)
            except KeyboardInterrupt:
                around.stop.set()


def _unfit(version: str, folder: Path, store: Address | None) -> str | None:
    if version != compressctl.__version__:
        return f"it has compressctl {compressctl.__version__}, and this zoo is driven by {version}: install the same"
    if store is None and not (folder / MARK).exists():
        return f"it does not see {folder}: name a `store`, or put the zoo under the same path on a file system that all nodes share"
    return None


def _node() -> str:
    """Nodes of one machine have the same name."""
    import ray

    return f"{socket.gethostname()} (Ray node {ray.get_runtime_context().get_node_id()[:12]})"
