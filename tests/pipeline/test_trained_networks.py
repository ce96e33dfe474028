"""Recipes that train, as their user meets them: what is kept, what goes on after a kill, and what several processes do."""

import json
import signal
import subprocess
import sys

import pytest
from support import warm
from support.shell import Finished, Shell

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402
from support.together import run_together  # noqa: E402

pytestmark = pytest.mark.slow

TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run"),
    "--standalone",
    "--local-addr",
    "127.0.0.1",
    "--nproc-per-node",
    "2",
]
"""`--standalone` lets the system choose a port and listens on it at once: nobody can take it in between."""


def test_a_network_of_another_structure_is_cached_left_behind_and_loaded_again(shell: Shell) -> None:
    recipe = shell.recipe("split.yaml", "  - {use: example.split, id: a}\n  - {use: finetune, id: b, epochs: 1}")
    assert shell.run("apply", recipe, "--output", "one").code == 0
    made = load_file(shell.folder / "one" / "artifacts" / "torch" / "model.safetensors")
    assert made["classifier.0.weight"].shape == (8, 64)

    plan = json.loads(shell.run("plan", recipe, "--json", "--set", "stages.b.learning_rate=0.001").out)["steps"]
    assert {step["id"]: step["cached"] for step in plan if step["key"]} == {"a": True, "b": False, "lower": False}

    (shell.folder / "loaded.yaml").write_text("""recipe: compressctl/v1
model: {source: builtin, name: digits-resnet, weights: one/artifacts/torch/model.safetensors,
        structure: one/artifacts/torch/structure.json}
data: {source: digits, calibration: 100}
stages: []
""")
    done = shell.run("apply", "loaded.yaml", "--output", "three")
    assert done.code == 0, done.err
    first, third = (shell.report(name)["backends"][0] for name in ("one", "three"))
    assert third["baseline"]["score"] == first["compressed"]["score"]
    assert third["baseline"]["parameters"] == first["compressed"]["parameters"] < first["baseline"]["parameters"]

    (shell.folder / "one" / "artifacts" / "torch" / "structure.json").write_text('{"version": 1}')
    refused = shell.run("apply", "loaded.yaml", "--output", "four")
    assert refused.code == 2
    assert "structure.json: the weights" in refused.err
    assert "Traceback" not in refused.err


def test_a_killed_training_goes_on_where_it_was(shell: Shell) -> None:
    recipe = shell.recipe("long.yaml", "  - {use: finetune, epochs: 4000, learning_rate: 0.001}")

    def is_kept() -> bool:
        """Under its own name: what is still being written is lost with the process."""
        kept = (shell.folder / "cache").rglob("training.safetensors")
        return any(not path.parent.name.startswith(".writing-") for path in kept)

    process = shell.start_until(is_kept, "apply", recipe, "--output", "first", OMP_NUM_THREADS="1")
    process.send_signal(signal.SIGKILL)
    process.wait()

    def goes_on() -> bool:
        return shell.says("second", "training goes on after step")

    process = shell.start_until(goes_on, "apply", recipe, "--output", "second", OMP_NUM_THREADS="1")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130


def launch(shell: Shell, *arguments: str, **more: str) -> Finished:
    """Two processes on CPUs, each with the same command line."""
    done = subprocess.run(
        [*TORCHRUN, "-m", "compressctl", *arguments],
        cwd=shell.folder,
        env={**shell.environment, "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_two_processes_carry_out_one_recipe(shell: Shell) -> None:
    stages = "  - {use: example.split}\n  - {use: finetune, epochs: 1, learning_rate: 0.001, momentum: 0.0}"
    recipe = shell.recipe("both.yaml", stages)
    arguments = ("apply", recipe, "--output", "two", "--no-cache", "--measure", "quick")
    leader, other = run_together(2, warm.command_line, arguments, shell.folder, shell.environment)
    assert (leader.returncode, other.returncode) == (0, 0), leader.errors.read_text()
    assert leader.said.read_text().count("report: two") == 1
    assert other.said.read_text() == ""
    assert [found.name for found in shell.folder.iterdir() if (found / "events.jsonl").exists()] == ["two"]
    (trained,) = (stage for stage in shell.report("two")["stages"] if stage["use"] == "finetune")
    assert trained["facts"]["processes"] == 2

    assert shell.run("apply", recipe, "--output", "one", "--no-cache", OMP_NUM_THREADS="1").code == 0
    one, two = (load_file(shell.folder / name / "artifacts" / "torch" / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-4) for name in one)


@pytest.mark.parametrize("last", ["0", "1"], ids=["the leader leaves last", "the other leaves last"])
def test_processes_that_fail_together_leave_with_one_message(shell: Shell, last: str) -> None:
    """The launcher sends SIGTERM to whoever is still there when the first one left with an error."""
    recipe = shell.recipe("bad.yaml", "  - use: example.linger\n  - {use: finetune, epochs: 1, learning_rate: 1.0e+9}")
    done = launch(shell, "apply", recipe, "--output", "out", EXAMPLE_LINGERS=last)
    assert done.err.count("the loss became") == 1
    assert done.err.count("exitcode  : 4") == 2  # what the launcher says of either process
    assert shell.report("out")["status"] == "failed"


def test_the_leader_says_what_is_wrong_with_the_recipe_although_the_others_find_it_first(shell: Shell) -> None:
    done = launch(shell, "apply", shell.recipe("refused.yaml", "  - use: example.refuse"))
    assert done.err.count("refused on purpose") == 1
    assert done.err.count("exitcode  : 2") == 2


def test_python_m_compressctl_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "compressctl", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("compressctl ")
