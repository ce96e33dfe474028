"""Commands that work on kept runs and exported files, on a real run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.shell import Shell


@pytest.fixture(scope="module")
def run(environment: dict[str, str], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of net.yaml, to be copied."""
    shell = Shell(tmp_path_factory.mktemp("kept"), {**environment, "COMPRESSCTL_CACHE": str(cache)})
    _apply_file(shell, _recipe(shell), "out")
    return shell.folder / "out"


def _recipe(shell: Shell) -> str:
    return shell.recipe("net.yaml", "  - {use: quantize.static, if_slower: keep, id: int8}")


def _apply_file(shell: Shell, recipe: str, output: str) -> None:
    done = shell.run("apply", recipe, "--output", output)
    assert done.code == 0, done.err


def test_files_are_timed_and_scored_without_a_run(shell: Shell, run: Path) -> None:
    _recipe(shell)
    shutil.copytree(run, shell.folder / "runs/net/one")
    files = [f"runs/net/one/artifacts/onnxruntime/{name}" for name in ("baseline/model.onnx", "model.onnx")]
    assert shell.run("pack", files[1], "-o", "model.cctl").code == 0
    timed = shell.run("bench", *files, "model.cctl", "--seconds", "0.1", "--json")
    assert timed.code == 0, timed.err
    first, second, packed = json.loads(timed.out)["files"]
    assert first["speed"] is None
    for entry in (second, packed):
        assert entry["speed"]["low"] <= entry["speed"]["ratio"] <= entry["speed"]["high"]
    assert [entry["file"] for entry in (first, second, packed)] == [*files, "model.cctl"]
    scored = shell.run("evaluate", files[1], "--data", "net.yaml", "--json")
    assert (
        json.loads(scored.out)["value"] == shell.report("runs/net/one")["backends"][0]["compressed"]["score"]["value"]
    )
    assert (
        shell.run("evaluate", "model.cctl", "--data", "net.yaml", "--json").out.split(",")[1:]
        == scored.out.split(",")[1:]
    )
    refused = shell.run("evaluate", files[1], "--data", "net.yaml", "--split", "train")
    assert refused.code == 2
    assert "not a split to score" in refused.err


@pytest.mark.slow
def test_files_of_both_runtimes_are_timed_side_by_side_and_scored(shell: Shell) -> None:
    recipe = shell.recipe(
        "net.yaml", "  - {use: quantize.static, if_slower: keep, id: int8}", "export: [onnxruntime, openvino]"
    )
    assert shell.run("apply", recipe, "--output", "out").code == 0
    onnx_file, openvino_file = "out/artifacts/onnxruntime/model.onnx", "out/artifacts/openvino/model.xml"
    timed = shell.run("bench", onnx_file, openvino_file, "--seconds", "0.2", "--json")
    assert timed.code == 0, timed.err
    assert [entry["file"] for entry in json.loads(timed.out)["files"]] == [onnx_file, openvino_file]
    assert "against the first: " in shell.run("bench", onnx_file, openvino_file, "--seconds", "0.1").out
    scored = shell.run("evaluate", openvino_file, "--data", recipe, "--json")
    part = shell.report("out")["backends"][1]
    assert json.loads(scored.out)["value"] == part["compressed"]["score"]["value"]


def test_a_missing_or_broken_file_is_one_message(shell: Shell) -> None:
    for command in (
        ["bench", "nothing.onnx"],
        ["bench", "nothing.onnx.xml"],
        ["bench", "nothing.cctl"],
        ["evaluate", "nothing.onnx", "--data", shell.recipe("net.yaml", "  []")],
    ):
        done = shell.run(*command)
        assert done.code == 2
        assert "nothing." in done.err
        assert "Traceback" not in done.err


def test_a_run_is_reproduced_from_its_lock_file_and_a_changed_figure_is_noticed(shell: Shell, run: Path) -> None:
    shutil.copytree(run, shell.folder / "runs/net/one")
    path = shell.folder / "runs/net/one/report.json"
    kept = json.loads(path.read_text())
    (before,) = kept["backends"]
    score = before["compressed"]["score"]["value"]
    before["compressed"]["score"]["value"] -= 1
    path.write_text(json.dumps(kept))
    done = shell.run("reproduce", "runs/net/one", "--measure", "quick")
    assert done.code == 1
    assert "accuracy was" in done.out
    assert "size was" not in done.out
    (after,) = shell.report("runs/net/one-reproduced")["backends"]
    assert after["compressed"]["score"]["value"] == score
    assert after["compressed"]["total_bytes"] == before["compressed"]["total_bytes"]
    assert shell.run("reproduce", "nowhere").code == 2


@pytest.mark.slow
def test_data_that_changed_is_named_as_the_reason(shell: Shell) -> None:
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.random((120, 1, 8, 8), np.float32), "labels": rng.integers(0, 10, 120)}
    np.savez(shell.folder / "data.npz", **arrays)
    (shell.folder / "net.yaml").write_text(
        """recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: npz, path: data.npz, calibration: 20}
stages: [{use: quantize.static, if_slower: keep}]
"""
    )
    _apply_file(shell, "net.yaml", "first")
    np.savez(shell.folder / "data.npz", **{**arrays, "inputs": 1 - arrays["inputs"]})
    done = shell.run("reproduce", "first", "--measure", "quick")
    assert "the data's files are not those of the first run" in done.out
    assert "the model's files" not in done.out


def test_runs_are_listed_pinned_and_cleaned_up(shell: Shell, run: Path) -> None:
    shutil.copytree(run, shell.folder / "runs/net/1")
    one = shell.folder / "runs/net/1"
    for name in ("2", "3"):
        (shell.folder / "runs/net" / name).mkdir()
        for file in ("events.jsonl", "report.json"):
            (shell.folder / "runs/net" / name / file).write_bytes((one / file).read_bytes())
    (shell.folder / "runs/mine/thesis").mkdir(parents=True)
    listed = shell.run("runs").out.splitlines()
    assert [line.split()[0] for line in listed] == ["runs/net/3", "runs/net/2", "runs/net/1"]
    assert "smaller" in listed[0]
    assert shell.run("runs", "pin", "runs/net/1").code == 0
    assert "(pinned)" in shell.run("runs").out
    assert "would remove" in shell.run("runs", "clean", "--keep", "1").out
    assert (shell.folder / "runs/net/2").exists()
    assert shell.run("runs", "clean", "--keep", "1", "--yes").code == 0
    assert sorted(path.name for path in (shell.folder / "runs/net").iterdir()) == ["1", "3"]
    assert Path(shell.folder / "runs/mine/thesis").exists()
    assert "accuracy" in shell.run("runs", "show", "runs/net/3").out
    assert shell.run("runs", "show", "runs/mine/thesis").code == 2
