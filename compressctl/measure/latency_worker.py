"""A fresh process that serves one artifact: `python -m compressctl.measure.latency_worker`, JSON lines in and out.

It loads nothing but the runtime, so that its memory is the runtime's. The first line names the artifact; each further line
{"runs": n} asks for n timed inferences, answered by {"seconds": [...]}; {"memory": true} by the peaks so far.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(sys.stdin.readline())
    if job["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])
    import numpy as np

    from compressctl.core.backend import Artifact, backends
    from compressctl.core.registry import load
    from compressctl.core.target import Target

    backend = load(backends.get(job["target"]["backend"]).implementation)
    backend.probe()
    __import__(job["runtime_module"])
    before = _peak_bytes()
    path = Path(job["artifact"]["path"])
    artifact = Artifact(job["artifact"]["backend"], path, (path,))
    session = backend.open(artifact, Target(**job["target"]))
    loaded = _peak_bytes()
    rng = np.random.default_rng(0)
    inputs = {spec["name"]: _input(rng, spec, np) for spec in job["inputs"]}
    _say({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "runs" in asked:
            seconds = []
            for _ in range(asked["runs"]):
                started = time.perf_counter()
                session.run(inputs)
                seconds.append(time.perf_counter() - started)
            _say({"seconds": seconds})
        else:
            _say({"before": before, "load_peak": loaded, "run_peak": _peak_bytes()})


def _input(rng: Any, spec: dict[str, Any], np: Any) -> Any:
    if spec["dtype"].startswith("float"):
        return rng.standard_normal(spec["shape"]).astype(spec["dtype"])
    return np.ones(spec["shape"], dtype=spec["dtype"])


def _peak_bytes() -> int:
    """The largest resident memory of this program so far.

    Linux keeps getrusage's peak across exec, so that a child would report its parent's; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
