"""compressctl apply as its user meets it: other people's techniques, killed runs, budgets, exit codes."""

import json
import signal
from pathlib import Path

import pytest
from support.shell import Shell

pytestmark = pytest.mark.slow

WAITING = """  - {use: quantize.static, if_slower: keep, id: int8}
  - {use: example.wait, id: waiting}"""


def test_a_technique_of_another_package_runs_from_a_recipe(shell: Shell) -> None:
    recipe = shell.recipe("plugin.yaml", "  - {use: example.scale, factor: 1.5}")
    done = shell.run("apply", recipe, "--output", "out")
    assert done.code == 0, done.err
    (stage,) = (stage for stage in shell.report("out")["stages"] if stage["use"] == "example.scale")
    assert stage["params"] == {"factor": 1.5}
    assert stage["facts"]["scaled"].endswith("bias")
    assert "example.scale" in shell.run("list", "techniques").out
    assert "what the last bias is multiplied by" in shell.run("explain", "example.scale").out


@pytest.mark.parametrize(
    ("stages", "finished"),
    [
        (["wait", "int8", "scale"], ["lower-before-waiting"]),
        (["int8", "wait", "scale"], ["lower-before-int8", "int8"]),
        (["int8", "scale", "wait"], ["lower-before-int8", "int8", "scale"]),
    ],
    ids=["in the first stage", "in the middle", "in the last stage"],
)
def test_a_killed_run_resumes_without_repeating_finished_stages(
    shell: Shell, stages: list[str], finished: list[str]
) -> None:
    lines = {
        "wait": "  - {use: example.wait, id: waiting}",
        "int8": "  - {use: quantize.static, if_slower: keep, id: int8}",
        "scale": "  - {use: example.scale, id: scale}",
    }
    recipe = shell.recipe("resume.yaml", "\n".join(lines[stage] for stage in stages))
    process = shell.start_until(
        lambda: shell.says("first", '"message": "waiting"'), "apply", recipe, "--output", "first", EXAMPLE_WAIT="1"
    )
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert shell.run("apply", recipe, "--output", "second").code == 0
    ended = {event["step"]: event for event in shell.events("second") if event["kind"] == "step.finished"}
    assert [step for step, event in ended.items() if event.get("cached")] == finished
    reported = {stage["id"]: stage for stage in shell.report("second")["stages"]}
    assert reported["int8"]["facts"]["calibration_samples"] == 100


def test_a_changed_last_stage_does_not_repeat_the_first(shell: Shell) -> None:
    recipe = shell.recipe("change.yaml", "  - {use: example.scale, id: a}\n  - {use: example.scale, id: b, factor: 2}")
    assert shell.run("apply", recipe, "--output", "one").code == 0
    plan = json.loads(shell.run("plan", recipe, "--json", "--set", "stages.b.factor=3").out)["steps"]
    assert {step["id"]: step["cached"] for step in plan if step["key"]} == {
        "lower-before-a": True,
        "a": True,
        "b": False,
    }


def test_a_damaged_cache_entry_is_made_again(shell: Shell) -> None:
    recipe = shell.recipe("damage.yaml", "  - {use: example.scale}")
    assert shell.run("apply", recipe, "--output", "one").code == 0
    for file in (shell.folder / "cache").rglob("model.onnx"):
        file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
    done = shell.run("apply", recipe, "--output", "two")
    assert done.code == 0, done.err
    assert "damaged" in done.out


def test_two_runs_at_once_share_a_cache(shell: Shell) -> None:
    recipe = shell.recipe("twice.yaml", "  - {use: quantize.static, if_slower: keep}")
    runs = [shell.start("apply", recipe, "--output", name) for name in ("one", "two")]
    codes = [process.communicate() and process.returncode for process in runs]
    assert codes == [0, 0]
    one, two = (shell.report(name)["backends"][0]["compressed"] for name in ("one", "two"))
    assert one["score"] == two["score"]
    assert one["total_bytes"] == two["total_bytes"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_leaves_a_report(shell: Shell, how: signal.Signals) -> None:
    recipe = shell.recipe("stop.yaml", WAITING)
    process = shell.start_until(
        lambda: shell.says("out", '"message": "waiting"'), "apply", recipe, "--output", "out", EXAMPLE_WAIT="1"
    )
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    report = shell.report("out")
    assert report["status"] == "interrupted"
    assert [stage["id"] for stage in report["stages"]] == ["lower", "int8"]
    assert "interrupted" in (shell.folder / "out" / "report.html").read_text()


def test_a_technique_that_breaks_is_one_message_and_a_log(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("fail.yaml", "  - {use: example.fail, id: broken}"), "--output", "out")
    assert done.code == 4
    assert "stage broken (example.fail) failed: ZeroDivisionError: on purpose" in done.err
    assert "Traceback" not in done.err
    assert "ZeroDivisionError" in (shell.folder / "out" / "error.log").read_text()
    assert shell.report("out")["status"] == "failed"


def test_a_missed_budget_exits_1_and_says_which(shell: Shell) -> None:
    recipe = shell.recipe(
        "budget.yaml", "  - {use: quantize.static, if_slower: keep}", "budget: {size: 1KB, accuracy_drop: 5}"
    )
    done = shell.run("apply", recipe, "--output", "out")
    assert done.code == 1
    holds = {check["name"]: check["holds"] for check in shell.report("out")["budget"]}
    assert holds == {"size": False, "accuracy_drop": True}
    assert "MISSED" in done.out


def test_a_gate_that_stops_exits_1_and_one_that_skips_goes_on(shell: Shell) -> None:
    stage = "  - {{use: example.scale, factor: 1.0e+6, gate: {{accuracy_drop: 1, otherwise: {}}}}}"
    stopped = shell.run("apply", shell.recipe("stop.yaml", stage.format("stop")), "--output", "stopped")
    assert stopped.code == 1, stopped.err
    assert "the gate allows 1" in stopped.err
    skipped = shell.run("apply", shell.recipe("skip.yaml", stage.format("skip")), "--output", "skipped")
    assert skipped.code == 0, skipped.err
    report = shell.report("skipped")
    assert "lost" in next(found for found in report["stages"] if found["use"] == "example.scale")["facts"]["skipped"]
    assert report["backends"][0]["compressed"]["change"]["drop"] == 0


def test_gates_hold_networks_too(shell: Shell) -> None:
    stages = """
  - {use: prune.unstructured, id: gently, sparsity: 0.3, gate: {accuracy_drop: 1}}
  - {use: prune.unstructured, id: hard, sparsity: 0.97, gate: {accuracy_drop: 1, otherwise: undo}}
"""
    done = shell.run("apply", shell.recipe("gates.yaml", stages), "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    gently, hard = (stage["facts"] for stage in report["stages"] if stage["use"] == "prune.unstructured")
    assert gently["validation_drop"] <= 1 < hard["validation_drop"]
    assert "skipped" not in gently
    assert "the gate allows 1" in hard["skipped"]
    weights = report["backends"][0]["compressed"]["weights"]
    assert sum(part["zeros"] for part in weights) / sum(part["elements"] for part in weights) == pytest.approx(
        0.3, abs=0.02
    )


def test_json_log_is_one_event_per_line_and_nothing_else(shell: Shell) -> None:
    done = shell.run(
        "apply", shell.recipe("json.yaml", "  - {use: example.scale}"), "--output", "out", "--log-format", "json"
    )
    kinds = [json.loads(line)["kind"] for line in done.out.splitlines()]
    assert kinds[0] == "run.started"
    assert kinds[-1] == "run.finished"


def test_a_dry_run_loads_nothing_and_writes_nothing(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("dry.yaml", "  - {use: quantize.static, if_slower: keep}"), "--dry-run")
    assert done.code == 0
    assert "quantize.static" in done.out
    assert not (shell.folder / "runs").exists()


def test_a_folder_that_holds_something_else_is_refused(shell: Shell) -> None:
    (shell.folder / "mine").mkdir()
    (shell.folder / "mine" / "thesis.txt").write_text("precious")
    done = shell.run(
        "apply", shell.recipe("folder.yaml", "  - {use: quantize.static, if_slower: keep}"), "--output", "mine"
    )
    assert done.code == 2
    assert "holds no run" in done.err
    assert [file.name for file in (shell.folder / "mine").iterdir()] == ["thesis.txt"]


def test_the_report_agrees_with_the_exported_file(shell: Shell) -> None:
    import numpy as np
    import onnxruntime

    from compressctl.core.source import SplitSizes
    from compressctl.recipe.schema import DataSection
    from compressctl.sources.load import load_dataset
    from compressctl.sources.params import DigitsParams

    assert (
        shell.run(
            "apply", shell.recipe("agree.yaml", "  - {use: quantize.static, if_slower: keep}"), "--output", "out"
        ).code
        == 0
    )
    backend = shell.report("out")["backends"][0]
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(calibration=100)), Path(), 0).split("test")
    batch = next(data.batches(len(data)))
    right = {}
    for name in ("baseline", "compressed"):
        file = shell.folder / "out" / backend[name]["path"]
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: next(iter(batch.inputs.values()))})[0]
        right[name] = outputs.argmax(axis=1) == batch.labels
        assert backend[name]["score"]["value"] == pytest.approx(right[name].mean() * 100)
        assert backend[name]["total_bytes"] == file.stat().st_size
    assert backend["compressed"]["change"]["right_to_wrong"] == np.sum(right["baseline"] & ~right["compressed"])
    assert backend["compressed"]["integer_mac_share"] == 1.0
    assert backend["compressed"]["parameters"] == backend["baseline"]["parameters"]
