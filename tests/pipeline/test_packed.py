"""`pack: true`: the exported file packed for transport, in a run and its report."""

import os
from pathlib import Path

import pytest
from support.shell import Finished, Shell

from compressctl import packed

pytestmark = pytest.mark.slow

STAGES = "  - {use: prune.unstructured, sparsity: 0.8, method: magnitude}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, Finished]:
    folder = tmp_path_factory.mktemp("packed")
    shell = Shell(folder, {**os.environ, "COMPRESSCTL_CACHE": str(folder / "cache")})
    recipe = shell.recipe("packed.yaml", STAGES, "pack: true\nbudget: {packed_size: 150KB}")
    return shell, shell.run("apply", recipe, "--output", "out")


def test_the_packed_file_is_the_file_that_was_measured(run: tuple[Shell, Finished]) -> None:
    shell, done = run
    assert done.code == 0, done.err
    exported = shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx"
    packed.unpack(exported.with_suffix(".cctl"), shell.folder / "back.onnx")
    assert (shell.folder / "back.onnx").read_bytes() == exported.read_bytes()


def test_the_report_says_what_it_takes_tensor_by_tensor(run: tuple[Shell, Finished]) -> None:
    shell, done = run
    part = shell.report("out")["backends"][0]
    found = part["compressed"]["packed"]
    taken = (shell.folder / "out" / found["path"]).stat().st_size
    assert found["total_bytes"] == taken
    assert found["smaller"] == pytest.approx(part["baseline"]["total_bytes"] / taken)
    assert found["smaller_than_parameters"] == pytest.approx(4 * part["baseline"]["parameters"] / taken)
    assert sum(tensor["packed_bytes"] for tensor in found["tensors"]) + found["graph_bytes"] <= taken
    said = (
        done.out + Path(shell.folder / "out" / "report.md").read_text() + (shell.folder / "out/report.html").read_text()
    )
    assert said.count("Packed for transport onnxruntime's file takes") >= 2
    assert "bytes in float32" in said


def test_a_budget_bounds_it(run: tuple[Shell, Finished]) -> None:
    shell, _ = run
    (check,) = shell.report("out")["budget"]
    assert check["name"] == "packed_size"
    assert check["holds"]
    assert check["actual"] == shell.report("out")["backends"][0]["compressed"]["packed"]["total_bytes"]
    assert shell.run("check", "out", "--budget", "packed_size=10KB").code == 1
