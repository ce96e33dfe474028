"""A sceptic's script and the report agree, on everything that is not a matter of the clock exactly."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from support.shell import Shell

SCRIPT = Path(__file__).with_name("recompute.py")


def test_a_script_without_compressctl_finds_the_same(shell: Shell) -> None:
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    # Noise that makes the networks err, or there would be no flips to count.
    noisy = images + np.random.default_rng(0).normal(0, 0.35, size=images.shape).astype(np.float32)
    data = shell.folder / "data.npz"
    np.savez(data, inputs=images[:900], labels=labels[:900], x_test=noisy[900:], y_test=labels[900:])
    text = """recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: npz, path: data.npz, test_inputs: x_test, test_labels: y_test, calibration: 40, validation: 0}
stages: [{use: quantize.static, if_slower: keep, bias_correction: false, ranges: minmax}]
"""
    (shell.folder / "recipe.yaml").write_text(text)
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    command = [sys.executable, str(SCRIPT), "out", "data.npz"]
    ran = subprocess.run(command, cwd=shell.folder, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    part = shell.report("out")["backends"][0]
    change = part["compressed"]["change"]
    assert found["disagreements"] > 0
    assert found == {
        "accuracy_before": part["baseline"]["score"]["value"],
        "accuracy_after": part["compressed"]["score"]["value"],
        "right_to_wrong": change["right_to_wrong"],
        "wrong_to_right": change["wrong_to_right"],
        "disagreements": change["disagreements"],
        "bytes_before": part["baseline"]["total_bytes"],
        "bytes_after": part["compressed"]["total_bytes"],
    }
    assert sum(part["compressed"]["files"].values()) == part["compressed"]["total_bytes"]
