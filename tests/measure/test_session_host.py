"""Files in a child process: the same answers, our errors as they are, and a crash that is a message."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.backend import Artifact
from compressctl.core.errors import CrashError, MachineError, UsageError
from compressctl.core.target import Target
from compressctl.measure.child_process import died
from compressctl.measure.energy import NoMeter, find_meter
from compressctl.measure.frames import receive, send
from compressctl.measure.session_host import SessionHost

ORT = Target("onnxruntime")


@pytest.fixture
def file(tmp_path: Path) -> Artifact:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Artifact("onnxruntime", path, (path,))


def test_a_session_answers_as_the_runtime_does(file: Artifact) -> None:
    x = np.ones((4, 3), np.float32)
    with SessionHost() as host:
        session = host.open(file, ORT)
        assert np.array_equal(session.run({"x": x})["y"], x @ np.arange(6, dtype=np.float32).reshape(3, 2))
        with pytest.raises(UsageError, match="4 x 2"):
            session.run({"x": x[:, :2]})
        first, second = host.time_in_turn([session, host.open(file, ORT)], [[{"x": x}]] * 2).ms
        assert min(first, second) > 0
        assert [node.op for node in host.explain(file, ORT)] == ["MatMul"]


def test_energy_of_calls_is_what_the_counters_say_or_a_reason_why_there_are_none(file: Artifact) -> None:
    inputs = [[{"x": np.ones((4, 3), np.float32)}]]
    meter = find_meter("cpu")
    with SessionHost() as host:
        session = host.open(file, ORT)
        if isinstance(meter, NoMeter):
            with pytest.raises(MachineError, match=f"energy cannot be measured: {re.escape(meter.reason)}"):
                host.joules_in_turn([session], inputs, "cpu")
        else:
            assert host.joules_in_turn([session], inputs, "cpu")[0] > 0


def test_a_crash_is_an_error_and_the_next_question_starts_anew(file: Artifact) -> None:
    with SessionHost(locates=False) as host:
        session = host.open(file, ORT)
        assert host._process is not None
        os.kill(host._process.pid, signal.SIGSEGV)
        with pytest.raises(CrashError, match=r"ONNX Runtime crashed \(SIGSEGV\) while running m\.onnx"):
            session.run({"x": np.ones((1, 3), np.float32)})
        assert session.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 2)


def test_sessions_that_nobody_holds_are_closed(file: Artifact) -> None:
    with SessionHost() as host:
        kept = host.open(file, ORT)
        for _ in range(3):
            host.open(file, ORT)
        gc.collect()
        assert kept.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 2)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array(3.5, np.float16),
        np.zeros((0, 4), np.float32),
        np.array([["a", "b"]], dtype=object),
        np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2],
    ],
)
def test_arrays_travel_between_processes_as_they_are(array: np.ndarray, tmp_path: Path) -> None:
    with (tmp_path / "pipe").open("w+b") as stream:
        send(stream, {"number": 1}, {"a/b:0": array})
        stream.seek(0)
        found = receive(stream)
    assert found is not None
    assert found[0] == {"number": 1}
    assert found[1]["a/b:0"].dtype == array.dtype
    assert np.array_equal(found[1]["a/b:0"], array)


def test_how_a_process_ended_is_said_in_words() -> None:
    assert "ran out of memory" in died(-signal.SIGKILL, "", "opening m.onnx", "openvino")
    assert (
        died(-signal.SIGSEGV, "noise", "running m.onnx", "openvino")
        == "OpenVINO crashed (SIGSEGV) while running m.onnx"
    )
    said = "Traceback:\n  File x\ncompressctl.core.errors.StageError: no kernel\n   a hint"
    assert died(1, said, "opening m.onnx", "onnxruntime").endswith("StageError: no kernel")
    assert "no message" in died(3, "", "opening m.onnx", "onnxruntime")


_ASKS_FOREVER = """
import sys
from pathlib import Path
import numpy as np
from compressctl.core.backend import Artifact
from compressctl.core.target import Target
from compressctl.measure.session_host import SessionHost
path = Path(sys.argv[1])
with SessionHost() as host:
    session = host.open(Artifact("onnxruntime", path, (path,)), Target("onnxruntime"))
    print(host._process.pid, flush=True)
    session.run({"x": np.ones((1, 3), np.float32)})
"""


def test_a_model_that_loops_forever_ends_with_whoever_asked(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["value"], ["next"])],
        "step",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            value,
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["steps", "yes", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array(10**15), "steps"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "loop.onnx"
    )
    command = [sys.executable, "-c", _ASKS_FOREVER, str(tmp_path / "loop.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        worker = psutil.Process(int(asking.stdout.readline()))
        time.sleep(1)  # it is in the loop by then, or will be
        asking.kill()
    try:
        worker.wait(timeout=60)
    finally:
        if worker.is_running():
            worker.kill()
