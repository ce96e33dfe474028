"""A device that is not there is said before any work."""

from support.shell import Shell


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
