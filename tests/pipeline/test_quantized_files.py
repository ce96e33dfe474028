"""Recipes with each quantization, from the command line: the report's accuracy is the file's, run by hand."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from sklearn.datasets import load_digits
from support.digit_network import digits, fitted_network
from support.shell import Shell

pytestmark = pytest.mark.slow

MACS = 3_226_240
"""Of digits-resnet, by hand: stem 18,432, blocks 4 x 589,824 + 577,536 + 270,336 (shortcuts included), classifier 640."""

LAST = 640
ALL, NONE = MACS, 0
MEASURED = None
"""As many as the machine's fastest form of the last product says, or the search under a budget."""

STAGES = {
    "weights in 4 bits": ("{use: quantize.weights, granularity: channel}", MEASURED),
    "gptq in 3 bits": (
        "{use: quantize.weights, method: gptq, bits: 3, overrides: [{match: 'Gemm', bits: 8}]}",
        MEASURED,
    ),
    "dynamic": ("{use: quantize.dynamic, if_slower: keep}", LAST),
    "four bits": (
        "{use: quantize.static, if_slower: keep, weights: int4, rounding: adaround, rounding_steps: 100}",
        ALL,
    ),
    "one layer in float": (
        "{use: quantize.static, if_slower: keep, overrides: [{match: classifier, weights: float}]}",
        MACS - LAST,
    ),
    "mixed": ("{use: quantize.mixed, if_slower: keep, size: 0.2, speedup: 0.1}", MEASURED),
    "cast all": ("{use: cast, scope: all, keep_io: false}", NONE),
    "equalized": ("{use: quantize.static, if_slower: keep, equalize: true, smoothquant_alpha: 0.5}", ALL),
    "trained": ("{use: quantize.qat, if_slower: keep, weights: int4, epochs: 1}", ALL),
    "binary": ("{use: quantize.binary, epochs: 1}", NONE),
    "binary, activations too": (
        "{use: quantize.binary, epochs: 1}, {use: quantize.static, if_slower: keep}",
        ALL,
    ),
}


@pytest.mark.parametrize(("stage", "integer_macs"), STAGES.values(), ids=STAGES)
def test_the_reports_accuracy_is_that_of_the_file(shell: Shell, stage: str, integer_macs: int | None) -> None:
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    noisy = images + np.random.default_rng(0).normal(0, 0.35, size=images.shape).astype(np.float32)
    np.savez(shell.folder / "data.npz", inputs=images[:900], labels=labels[:900], x=noisy[900:], y=labels[900:])
    (shell.folder / "recipe.yaml").write_text(f"""recipe: compressctl/v1
model: {{source: builtin, name: digits-resnet}}
data: {{source: npz, path: data.npz, test_inputs: x, test_labels: y, calibration: 100, validation: 0}}
stages: [{stage}]
""")
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    part = shell.report("out")["backends"][0]["compressed"]
    found = _accuracy(shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx", noisy[900:], labels[900:])
    assert part["score"]["value"] == pytest.approx(found, abs=1e-9)
    size = sum(path.stat().st_size for path in (shell.folder / "out" / "artifacts" / "onnxruntime").glob("model.onnx*"))
    assert part["total_bytes"] == size
    assert part["macs"] == MACS
    if integer_macs is not MEASURED:
        assert part["integer_mac_share"] == pytest.approx(integer_macs / MACS, abs=1e-12)


def _accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """One image at a time: ranges that are found while the model runs depend on the batch."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    dtype = np.float16 if taken.type == "tensor(float16)" else np.float32
    right = [
        session.run(None, {taken.name: image[None].astype(dtype)})[0].argmax() == label
        for image, label in zip(images, labels, strict=True)
    ]
    return 100 * float(np.mean(right))


def test_what_mixed_chose_is_a_recipe_of_its_own(shell: Shell) -> None:
    """It loads, searches nothing, and gives the same file."""
    onnx.save(fitted_network(digits()).body, shell.folder / "net.onnx")
    (shell.folder / "recipe.yaml").write_text("""recipe: compressctl/v1
model: {source: onnx, path: net.onnx}
data: {source: digits, calibration: 100}
stages: [{use: quantize.mixed, id: few, if_slower: keep, size: 0.18, static: {rounding: adaround, rounding_steps: 50}}]
""")
    assert shell.run("apply", "recipe.yaml", "--output", "first").code == 0
    shutil.copy(shell.folder / "first" / "recipe.pinned.yaml", shell.folder / "pinned.yaml")
    stage = yaml.safe_load((shell.folder / "pinned.yaml").read_text())["stages"][0]
    assert (stage["id"], stage["use"]) == ("few", "quantize.static")
    assert "int4" in {entry["weights"] for entry in stage["overrides"]} != {"int4"}
    assert shell.run("apply", "pinned.yaml", "--output", "second").code == 0
    first, second = (shell.folder / name / "artifacts" / "onnxruntime" / "model.onnx" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
