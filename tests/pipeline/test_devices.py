"""A device that is not there is said before any work."""

from support.shell import Shell


def test_a_gpu_without_its_runtime_is_exit_code_3(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("gpu.yaml", "  - {use: quantize.static}", "target: {device: cuda}"))
    assert done.code == 3
    assert "onnxruntime-gpu" in done.err
    assert not (shell.folder / "runs").exists()
