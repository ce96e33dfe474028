"""What a run measures, on real runs: each stage, other batches and threads, groups, regression, energy."""

import numpy as np
import pytest
from support.shell import Shell


@pytest.mark.slow
def test_each_stage_is_measured_whether_it_is_made_now_or_comes_from_the_cache(shell: Shell) -> None:
    cached = "  - {use: example.scale, id: nothing, factor: 1.0}"
    assert shell.run("apply", shell.recipe("first.yaml", cached), "--output", "first", "--measure", "quick").code == 0
    recipe = shell.recipe("all.yaml", f"{cached}\n  - {{use: quantize.static, if_slower: keep, id: int8}}")
    done = shell.run("apply", recipe, "--output", "out", "--measure", "stages")
    assert done.code == 0, done.err
    assert [stage["cached"] for stage in shell.report("out")["stages"]] == [True, True, False]
    part = shell.report("out")["backends"][0]
    assert [point["id"] for point in part["waterfall"]] == ["float", "nothing", "int8"]
    start, nothing, int8 = part["waterfall"]
    assert start["total_bytes"] == part["baseline"]["total_bytes"]
    assert part["compressed"]["total_bytes"] == int8["total_bytes"] < 0.4 * nothing["total_bytes"]
    assert nothing["score"] == start["score"]
    assert nothing["speed"]["low"] <= nothing["speed"]["ratio"] <= nothing["speed"]["high"]
    points = [(point["latency"]["batch"], point["latency"]["threads"]) for point in part["compressed"]["points"]]
    assert (16, 1) in points
    assert (1, 1) not in points
    assert "after each stage" in (shell.folder / "out" / "report.md").read_text().lower()


def test_an_untimed_run_compares_and_scores_and_says_that_it_did_not_time(shell: Shell) -> None:
    recipe = shell.recipe("untimed.yaml", "  - {use: quantize.weights, bits: 8, if_slower: keep}")
    done = shell.run("apply", recipe, "--output", "out", "--measure", "untimed")
    assert done.code == 0, done.err
    report = shell.report("out")
    found = report["backends"][0]["compressed"]
    assert found["latency"] is None
    assert found["speed"] is None
    assert found["score"]["value"] > 90
    assert found["fidelity"]["outputs"][0]["sqnr_db"] > 20
    assert any("not measured: --measure untimed" in warning for warning in report["warnings"])


def test_an_untimed_run_is_not_held_against_a_limit_of_latency(shell: Shell) -> None:
    recipe = shell.recipe("limited.yaml", "  - {use: quantize.static}\nbudget: {speedup: 1.1}")
    refused = shell.run("apply", recipe, "--output", "out", "--measure", "untimed")
    assert refused.code == 2
    assert "budget.speedup" in refused.err
    assert not (shell.folder / "out").exists()


def _table(shell: Shell, *, regression: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4))
    label = features @ [1.0, -2.0, 0.5, 0.0] + rng.normal(0, 0.1, 400)
    lines = ["a,b,c,d,label,town"]
    for row, value, town in zip(features, label, rng.choice(["north", "south"], 400), strict=True):
        lines.append(
            ",".join([*(f"{x:.4f}" for x in row), f"{value:.4f}" if regression else str(int(value > 0)), town])
        )
    (shell.folder / "table.csv").write_text("\n".join(lines))
    outputs = 1 if regression else 2
    (shell.folder / "net.py").write_text(f"""
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, {outputs}))
""")


def _recipe(shell: Shell, task: str, extra: str) -> str:
    (shell.folder / "table.yaml").write_text(f"""recipe: compressctl/v1
task: {task}
model: {{source: python, factory: "net.py:make", input_shape: [4]}}
data: {{source: csv, path: table.csv, label: label, {extra} calibration: 60, test: 200, validation: 0}}
target: {{watts_per_core: 6}}
stages: [{{use: quantize.static, if_slower: keep}}]
""")
    return "table.yaml"


def test_groups_are_compared_and_never_seen_by_the_model(shell: Shell) -> None:
    _table(shell, regression=False)
    done = shell.run("apply", _recipe(shell, "classification", "group: town,"), "--output", "out")
    assert done.code == 0, done.err
    groups = shell.report("out")["backends"][0]["compressed"]["behaviour"]["groups"]
    assert sorted(group["name"] for group in groups["groups"]) == ["north", "south"]
    assert sum(group["samples"] for group in groups["groups"]) == 200
    assert groups["low"] <= groups["amplification"] <= groups["high"]
    assert "Between groups" in done.out


def test_regression_and_declared_watts(shell: Shell) -> None:
    _table(shell, regression=True)
    done = shell.run("apply", _recipe(shell, "regression", "task: regression, group: town,"), "--output", "out")
    assert done.code == 0, done.err
    after = shell.report("out")["backends"][0]["compressed"]
    assert after["drift"]["mean_change"] > 0
    assert after["behaviour"] is None
    assert after["energy"]["provenance"] == "estimated"
    assert after["energy"]["joules"] > 0
    assert "6 declared watts" in after["energy"]["source"]
    assert after["energy"]["saving"]["low"] <= after["energy"]["saving"]["ratio"]
