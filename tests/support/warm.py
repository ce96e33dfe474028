"""The command line in a process that has imported everything already, and exported a network once: seconds less for each test.

Python's fork server imports this module; each command is a fork of it, with an environment, a folder and outputs of its own.
It is as fresh as a new process, but for two things: hashes of text are the same in all forks, and `main` is called, not started.
"""

import contextlib
import multiprocessing
import os
import sys
from pathlib import Path

_IMPORTED = ("torch", "onnxscript", "onnxruntime", "sklearn.datasets", "matplotlib.figure", "jinja2", "pydantic")


def run(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> int:
    """The exit code."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    with _one_thread():
        process = server.Process(target=_become, args=(arguments, folder, environment, out, err))
        process.start()
    try:
        process.join()
    finally:
        process.kill()
    assert process.exitcode is not None
    return process.exitcode


@contextlib.contextmanager
def _one_thread():  # type: ignore[no-untyped-def]
    """The server must never have threads: a fork has none of them, and would wait for them. Only its first start reads this."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in (*names, "PYTHONPATH", "COMPRESSCTL_TESTS_WARM")}
    here = str(Path(__file__).parent.parent)
    os.environ |= dict.fromkeys(names, "1") | {"COMPRESSCTL_TESTS_WARM": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, before["PYTHONPATH"]]))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _become(arguments: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = ["compressctl", *arguments]
    import torch

    from compressctl.cli.main import main

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    main()


def _warm_up() -> None:
    import importlib

    for name in _IMPORTED:
        importlib.import_module(name)
    import torch

    from compressctl.graph.lower import lower
    from compressctl.sources import builtin
    from compressctl.sources.params import BuiltinParams

    torch.set_num_threads(1)
    lower(builtin.load(BuiltinParams(name="digits-resnet"), Path(), 0))


if os.environ.get("COMPRESSCTL_TESTS_WARM") and multiprocessing.current_process().name == "MainProcess":
    _warm_up()
