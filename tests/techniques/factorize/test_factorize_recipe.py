"""factorize.* as its user meets it: a recipe, a file, a report."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support.shell import Shell

STAGE = """  - use: factorize.svd
    id: thin
    rank: {global_ratio: 0.7}
    finetune: {epochs: 1, learning_rate: 0.01}"""


@pytest.mark.slow
def test_the_report_agrees_with_the_exported_file(shell: Shell) -> None:
    from compressctl.core.source import SplitSizes
    from compressctl.recipe.schema import DataSection
    from compressctl.sources.load import load_dataset
    from compressctl.sources.params import DigitsParams

    done = shell.run("apply", shell.recipe("thin.yaml", STAGE), "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    compressed = report["backends"][0]["compressed"]
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(calibration=100)), Path(), 0).split("test")
    batch = next(data.batches(len(data)))
    session = onnxruntime.InferenceSession(
        shell.folder / "out" / compressed["path"], providers=["CPUExecutionProvider"]
    )
    outputs = np.asarray(session.run(None, {session.get_inputs()[0].name: next(iter(batch.inputs.values()))})[0])
    assert compressed["score"]["value"] == pytest.approx((outputs.argmax(axis=1) == batch.labels).mean() * 100)
    (facts,) = (stage["facts"] for stage in report["stages"] if stage["id"] == "thin")
    # Networks whose layers all gained nothing on this machine's clock are as honest a result, but then nothing fell.
    assert compressed["macs"] == facts["macs_after"]
    assert facts["macs_after"] <= facts["macs_before"]
    timed = [row for row in facts["layers"] if "latency_ms_after" in row]
    assert timed
    for row in timed:
        assert ("left_whole" in row) == (row["latency_ms_after"] > row["latency_ms_before"])


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("{use: factorize.svd, rank: {energy: 0.9, ratio: 0.5}}", "give exactly one of ratio, energy, error"),
        ("{use: factorize.svd, rank: {enrgy: 0.9}}", "energy"),
        ("{use: factorize.svd, rank: {energy: 1.5}}", "1.5 is not below 1"),
        ("{use: factorize.svd, rank: 0}", "0 is less than 1"),
        ("{use: factorize.svd, conv: spacial}", "did you mean spatial?"),
        ("{use: factorize.tucker, rank: [4, 0]}", "0 is less than 1"),
        ("{use: factorize.cp, overrides: [{match: '', rank: full}]}", "this is empty"),
    ],
)
def test_a_slip_in_a_recipe_is_one_message(stage: str, says: str, shell: Shell) -> None:
    done = shell.run("validate", shell.recipe("slip.yaml", f"  - {stage}"))
    assert done.code == 2
    assert says in done.err
    assert "slip.yaml:5" in done.err
    assert "Traceback" not in done.err


def test_training_a_graph_is_refused_before_anything_is_loaded(shell: Shell) -> None:
    stages = "  - {use: quantize.static}\n  - {use: factorize.svd, finetune: {epochs: 1}}"
    done = shell.run("plan", shell.recipe("graph.yaml", stages))
    assert done.code == 2
    assert "stages[1].finetune: training needs a torch model" in done.err
    assert "the model is already quantized by an earlier stage" in done.err


def test_whitening_asks_for_calibration_data(shell: Shell) -> None:
    recipe = shell.recipe("bare.yaml", "  - {use: factorize.svd, id: thin}")
    done = shell.run("plan", recipe, "--set", "data.calibration=0")
    assert done.code == 2
    assert "factorize.svd needs calibration data" in done.err
    plain = shell.run("plan", recipe, "--set", "data.calibration=0", "--set", "stages.thin.whitening=false")
    assert plain.code == 0, plain.err
