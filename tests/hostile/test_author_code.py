"""Code of a recipe's author that harms the process it runs in: the command ends all the same, with its report and a true exit code."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile._case import Case, names
from hostile._in_process import refused
from hostile._models import network
from hostile._runs import unmeasured
from support.shell import Finished

from compressctl.tasks.author_functions import decoder
from compressctl.tasks.params import PythonDecoderParams

NETWORK = """import atexit, os, sys, threading, time
from torch import nn

class Network(nn.Linear):
    def forward(self, x):
        {forward}
        return super().forward(x)

def net():
    {body}
    return Network(4, 3)
"""
RECIPE = """recipe: compressctl/v1
task: custom
model: {source: python, factory: "net.py:net", input_shape: [4]}
stages: [{use: quantize.dynamic, if_slower: keep}]
"""


def applied(
    case: Case,
    code: int,
    *more: str,
    body: str = "pass",
    forward: str = "pass",
    first: Callable[[], None] = unmeasured,
) -> Finished:
    (case.folder / "net.py").write_text(NETWORK.format(body=body, forward=forward))
    (case.folder / "recipe.yaml").write_text(RECIPE)
    leaves = ["net.py", "recipe.yaml", "out", "__pycache__"]
    return case.ends("apply", "recipe.yaml", "--output", "out", *more, code=code, first=first, leaves=leaves)


def status(case: Case) -> str:
    found: str = json.loads((case.folder / "out" / "report.json").read_text())["status"]
    return found


@pytest.mark.parametrize("place", ["body", "forward"])
def test_it_leaves_at_once_with_0(place: str, case: Case) -> None:
    done = applied(case, 2, **{place: "os._exit(0)"})
    assert "SystemExit: 0" in done.err
    assert status(case) == "failed"


def test_a_thread_leaves_at_once_with_0(case: Case) -> None:
    done = applied(case, 4, body="threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(60)")
    assert "ended this process with os._exit" in done.err


def test_it_would_leave_with_0_at_the_end(case: Case) -> None:
    applied(case, 2, body="atexit.register(os._exit, 0); raise ValueError('no')")
    assert status(case) == "failed"


@pytest.mark.parametrize("how", ["while True: pass", "time.sleep(1e6)", "threading.Event().wait()"])
@pytest.mark.parametrize("place", ["body", "forward"])
def test_it_does_not_come_back(place: str, how: str, case: Case) -> None:
    """A time limit ends it although it tells of nothing."""
    done = applied(case, 124, "--time-limit", "1s", first=_hardly_patient, **{place: how})
    assert "came to its time limit" in done.err
    assert status(case) == "time limit"


@pytest.mark.parametrize("instead", ["KeyboardInterrupt()", "ImportError('half loaded')"])
def test_what_the_limit_raises_comes_out_as_something_else(instead: str, case: Case) -> None:
    """It is the limit all the same, and no Ctrl-C: a search goes on with the next candidate."""
    how = f'exec("try:\\n while True: pass\\nexcept BaseException as over:\\n raise {instead} from over")'
    done = applied(case, 124, "--time-limit", "1s", first=_hardly_patient, body=how)
    assert "came to its time limit" in done.err
    assert status(case) == "time limit"


def _hardly_patient() -> None:
    from compressctl.pipeline import event_listeners

    event_listeners._SILENT_SECONDS = 0.5
    unmeasured()


DECODED = """recipe: compressctl/v1
name: r
task: recognition
model: {source: onnx, path: model.onnx}
data: {source: npz, path: d.npz, inputs: x, labels: null, calibration: 8, validation: 8, test: 8}
decode: "own.py:read"
stages: [{use: quantize.dynamic, id: q, if_slower: keep, gate: {kept: 1}}]
"""


def test_a_decoder_that_does_not_come_back(case: Case) -> None:
    (case.folder / "model.onnx").write_bytes(network().SerializeToString())
    np.savez(case.folder / "d.npz", x=np.ones((24, 8), np.float32))
    (case.folder / "recipe.yaml").write_text(DECODED)
    (case.folder / "own.py").write_text("import time\n\ndef read(outputs):\n    time.sleep(1e6)\n")
    arguments = ("apply", "recipe.yaml", "--output", "out", "--time-limit", "1s")
    case.refuses(*arguments, code=124, says="time limit", first=_hardly_patient, leaves=["out", "__pycache__"])
    assert status(case) == "time limit"


def test_a_decoder_of_enormous_results(case: Case) -> None:
    (case.folder / "model.onnx").write_bytes(network().SerializeToString())
    np.savez(case.folder / "d.npz", x=np.ones((24, 8), np.float32))
    (case.folder / "recipe.yaml").write_text(DECODED)
    (case.folder / "own.py").write_text(
        "import numpy\n\ndef read(outputs):\n    return [numpy.zeros(1 << 33) for _ in outputs['y']]\n"
    )
    arguments = ("apply", "recipe.yaml", "--output", "out")
    case.refuses(*arguments, code=5, says="memory", first=unmeasured, leaves=["out", "__pycache__"])
    assert status(case) == "failed"


def test_a_thread_goes_on_for_ever(case: Case) -> None:
    applied(case, 0, body="threading.Thread(target=time.sleep, args=(1e6,)).start()")
    assert status(case) == "done"


def test_processes_that_it_left_are_not_waited_for(tmp_path: Path) -> None:
    """The daemons among them are ended, as Python would."""
    script = f"""
import multiprocessing, sys, time
from pathlib import Path
from compressctl.cli.ending import ends_as_decided
with ends_as_decided():
    forks = multiprocessing.get_context("fork")
    for daemon in (False, True):
        child = forks.Process(target=time.sleep, args=(600,), daemon=daemon)
        child.start()
        Path({str(tmp_path)!r}, str(daemon)).write_text(str(child.pid))
    sys.exit(3)
"""
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths}
    # To files: who left behind holds the pipes, and would be waited for by whoever reads them.
    done = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 3
    left, daemon = (int((tmp_path / name).read_text()) for name in ("False", "True"))
    os.kill(left, signal.SIGKILL)
    assert not _runs(daemon)


def _runs(process: int) -> bool:
    """A process that nobody waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_it_prints_to_is_closed(case: Case) -> None:
    """What is opened next would get these numbers, and be written into by whatever prints."""
    applied(case, 0, body="os.close(1); os.close(2); sys.stdout = sys.stderr = None")
    assert status(case) == "done"


def test_it_closes_the_output_as_if_it_were_its_own(case: Case) -> None:
    done = applied(case, 0, body="sys.stdout.close(); sys.stderr.close()")
    assert "report: out/report.html" in done.out


def test_it_closes_what_lies_below_the_output(case: Case) -> None:
    applied(case, 0, body="sys.__stdout__.close(); sys.__stderr__.close()")
    assert status(case) == "done"


def test_it_goes_to_another_folder(case: Case) -> None:
    """The run's folder is named relative to the first one."""
    applied(case, 0, body="os.mkdir('../elsewhere'); os.chdir('../elsewhere')")
    assert status(case) == "done"
    assert not names(case.root / "elsewhere")


@pytest.mark.parametrize("comes_back", ["raise SystemExit(0)", "pass"])
def test_a_fork_of_it_comes_back(comes_back: str, case: Case) -> None:
    """It writes no report of its own over the run's."""
    applied(case, 0, body=f"process = os.fork()\n    if process == 0: {comes_back}\n    else: os.waitpid(process, 0)")
    events = (case.folder / "out" / "events.jsonl").read_text().splitlines()
    assert [json.loads(event)["kind"] for event in events].count("run.finished") == 1


def test_a_fork_of_it_is_ended(case: Case) -> None:
    """As those of a data loader, in silence and by the signal."""
    body = (
        "process = os.fork()\n    if process == 0: time.sleep(600)\n    time.sleep(0.1)\n    os.kill(process, 15)\n"
        "    assert os.waitpid(process, 0)[1] == 15"
    )
    assert "Interrupt" not in applied(case, 0, body=body).err


def test_it_empties_the_environment(case: Case) -> None:
    applied(case, 0, body="os.environ.clear()")
    assert status(case) == "done"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return iter(int, 1)", "gave more than 4 results for 4 samples"),
        ("return [0]", "gave 1 results for 4 samples"),
        ("return None", "failed on outputs y [4, 2]: TypeError"),
        ("raise SystemExit(0)", "failed on outputs y [4, 2]: SystemExit: 0"),
        ("outputs['y'][:] = 0", "read-only"),
    ],
    ids=["without end", "too few", "nothing", "leaves", "changes what it is given"],
)
def test_a_decoder(body: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def read(outputs):\n    {body}\n")
    decode = decoder(PythonDecoderParams(function="own.py:read"), tmp_path)
    refused(lambda: decode({"y": np.zeros((4, 2), np.float32)}), says)
