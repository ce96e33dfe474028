"""What a Ray cluster's nodes do of a zoo: one job, in processes of its own as on any machine. Questions and answers are short JSON."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

import compressctl
from compressctl.core.errors import MachineError
from compressctl.zoo.keys import Planned
from compressctl.zoo.pauses import Pauses
from compressctl.zoo.process import Surroundings, run_job
from compressctl.zoo.results import MARK, JobResult
from compressctl.zoo.stopping import stopped_by_errors

_LOOK = 0.2
_PLANNED = TypeAdapter(Planned)


def question(planned: Planned, around: Surroundings) -> str:
    """What `run_on_node` takes. The zoo's folder has the same path on every node."""
    return json.dumps(
        {
            "compressctl": compressctl.__version__,
            "folder": str(around.folder.absolute()),
            "measure": around.measure,
            "is_cached": around.is_cached,
            "is_strict": around.is_strict,
            "retries": around.retries,
            "planned": _PLANNED.dump_python(planned, mode="json"),
        }
    )


def result_in(answer: str) -> JobResult:
    """What `run_on_node` gave. Raises MachineError for a node that cannot run the zoo's jobs."""
    read = json.loads(answer)
    if "unfit" in read:
        raise MachineError(read["unfit"])
    return JobResult.model_validate(read["result"])


def run_on_node(asked: str) -> str:
    """The body of a Ray task. Ray interrupts the one that is to stop; the job then writes what it has."""
    read = json.loads(asked)
    unfit = _unfit(read["compressctl"], Path(read["folder"]))
    if unfit is not None:
        return json.dumps({"unfit": f"{_node()}: {unfit}"})
    with Pauses() as pauses:
        around = Surroundings(
            Path(read["folder"]),
            read["measure"],
            read["is_cached"],
            read["retries"],
            pauses,
            threading.Event(),
            threading.Event(),
            read["is_strict"],
        )
        try:
            result = _interruptible(_PLANNED.validate_python(read["planned"]), around)
        except OSError as error:
            return json.dumps({"unfit": f"{_node()}: {error}"})
    return json.dumps({"result": result.model_copy(update={"host": _node()}).model_dump(mode="json")})


def _interruptible(planned: Planned, around: Surroundings) -> JobResult:
    with ThreadPoolExecutor(1) as pool, stopped_by_errors(around):
        running = pool.submit(run_job, planned, around)
        while True:
            try:
                with suppress(TimeoutError):
                    return running.result(_LOOK)
            except KeyboardInterrupt:
                around.stop.set()


def _unfit(version: str, folder: Path) -> str | None:
    if version != compressctl.__version__:
        return f"it has compressctl {compressctl.__version__}, and this zoo is driven by {version}: install the same"
    if not (folder / MARK).exists():
        return f"it does not see {folder}: put the zoo on a file system that all nodes share, under the same path"
    return None


def _node() -> str:
    """Nodes of one machine have the same name."""
    import ray

    return f"{socket.gethostname()} (Ray node {ray.get_runtime_context().get_node_id()[:12]})"
