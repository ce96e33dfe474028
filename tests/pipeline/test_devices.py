"""A device that is not there is said before any work."""

import pytest
from support.shell import Shell

from compressctl.core.machine import nvidia_gpu


def test_a_gpu_without_its_runtime_is_exit_code_3(shell: Shell) -> None:
    done = shell.run(
        "apply", shell.recipe("gpu.yaml", "  - {use: quantize.static, if_slower: keep}", "target: {device: cuda}")
    )
    assert done.code == 3
    assert "onnxruntime cannot run on cuda here" in done.err
    assert "pip install onnxruntime-gpu" in done.err
    assert not (shell.folder / "runs").exists()


def test_tensorrt_delivers_for_a_gpu_that_is_not_here(shell: Shell) -> None:
    target = "target: {backend: tensorrt, device: cuda}"
    done = shell.run(
        "apply", shell.recipe("gpu.yaml", "  - {use: quantize.static, if_slower: keep}", target), "--output", "out"
    )
    assert done.code == 0, done.err
    assert (shell.folder / "out" / "artifacts" / "tensorrt" / "build_engine.py").is_file()
    assert shell.report("out")["backends"][0]["compressed"]["latency"] is None


@pytest.mark.skipif(nvidia_gpu() is not None, reason="there is a GPU to time on")
def test_a_runtime_that_only_stands_in_decides_nothing_by_its_clock(shell: Shell) -> None:
    """TensorRT's file runs in another runtime here, whose clock says nothing of a GPU."""
    target = "target: {backend: tensorrt, device: cuda}"
    done = shell.run(
        "apply", shell.recipe("gpu.yaml", "  - {use: quantize.static, if_slower: stop}", target), "--output", "out"
    )
    assert done.code == 0, done.err
    quantized = next(stage for stage in shell.report("out")["stages"] if stage["use"] == "quantize.static")
    assert "slower" not in quantized["facts"]
    stages = "  - {use: prune.channels, keep: 0.7, scope: measured}"
    done = shell.run("apply", shell.recipe("cut.yaml", stages, target), "--output", "cut")
    assert (done.code, "there is no latency to go by" in " ".join(done.err.split())) == (4, True), done.err
