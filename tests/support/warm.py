"""Processes that have imported everything already, and exported a network once: seconds less for each test.

Python's fork server imports this module; each process is a fork of it, with an environment, a folder and outputs of its own.
It is as fresh as a new one, but for two things: hashes of text are the same in all forks, and a function is called, nothing started.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_IMPORTED = (
    *(
        "torch",
        "onnxscript",
        "accelerate",
        "onnxruntime",
        "sklearn.datasets",
        "matplotlib.figure",
        "jinja2",
        "pydantic",
    ),
    "compressctl.pipeline.run",
)


@dataclass(frozen=True)
class Running:
    """What subprocess.Popen offers, for a fork. said: the file of its standard output, which may be read at any time."""

    process: Any
    said: Path
    errors: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: negative for a signal."""
        code: int | None = self.process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def wait(self) -> int:
        self.process.join()
        assert self.returncode is not None
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        self.wait()
        return self.said.read_text(), self.errors.read_text()


def start(
    function: Callable[..., None], arguments: tuple[Any, ...], folder: Path, environment: Mapping[str, str]
) -> Running:
    """Call a function of a module that can be imported, in a process of its own. Whatever ends the test run ends it too."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__])
    outputs = Path(f"{folder}-outputs")
    outputs.mkdir(exist_ok=True)
    number = len(list(outputs.iterdir()))
    out, err = outputs / f"{number}.out", outputs / f"{number}.err"
    for file in (out, err):
        file.touch()
    with _one_thread():
        process = server.Process(
            target=_become, args=(function, arguments, folder, dict(environment), out, err), daemon=True
        )
        process.start()
    return Running(process, out, err)


def command_line(*arguments: str) -> None:
    """A function to start: `compressctl` with these arguments."""
    from compressctl.cli.main import main

    sys.argv = ["compressctl", *arguments]
    main()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
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


def _become(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    folder: Path,
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    # A shell starts what it runs in the background with SIGINT ignored, and who ignores it starts others that do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # what the environment says of it
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    try:
        function(*arguments)
    finally:
        weakref.finalize._exitfunc()  # type: ignore[attr-defined]  as at any process's end, but not at a fork's


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
