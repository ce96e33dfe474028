"""A vision transformer from `transformers`, which nothing here was written for, through every family of techniques.

python benchmarks/third_party.py [--report FOLDER]        needs `pip install transformers`; about five minutes on two cores

The network is built from a config and trained on the digits by a recipe of one stage; then recipes/small-vit.yaml prunes
its heads and channels, factorizes, distils from the original and quantizes, and the report shows each stage's part.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from stages import table

import compressctl

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "recipes" / "models"))

TRAIN = """recipe: compressctl/v1
name: train-vit
task: classification
model: {{source: python, factory: "{models}/small_vit.py:digits_vit", weights: "{start}", input_shape: [1, 8, 8]}}
data: {{source: digits}}
stages:
  - {{use: finetune, epochs: 80, optimizer: adamw, learning_rate: 0.002, weight_decay: 0.02, batch_size: 64, augment: {{crop_padding: 1}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="where the run with its report is left")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        weights = _trained(Path(scratch))
        run = asked.report or Path(scratch) / "run"
        code = _apply(ROOT / "recipes" / "small-vit.yaml", run, COMPRESSCTL_VIT=str(weights))
        print(table(compressctl.open_run(run).report))
    sys.exit(code)


def _trained(folder: Path) -> Path:
    """The network, trained on the digits' train split, chosen on their validation split."""
    from small_vit import digits_vit

    torch.manual_seed(0)
    save_file(digits_vit().state_dict(), folder / "start.safetensors")
    recipe = folder / "train.yaml"
    recipe.write_text(TRAIN.format(models=ROOT / "recipes" / "models", start=folder / "start.safetensors"))
    code = _apply(recipe, folder / "trained")
    if code:
        sys.exit(code)
    return folder / "trained" / "artifacts" / "torch" / "model.safetensors"


def _apply(recipe: Path, output: Path, **environment: str) -> int:
    command = [sys.executable, "-m", "compressctl", "apply", str(recipe), "--output", str(output), "--no-cache"]
    return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode


if __name__ == "__main__":
    main()
