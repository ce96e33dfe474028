"""A first manifest for a folder: the models that are in it, and a recipe for those that no rule fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.zoo.model_files import files_for

_RECIPE = """# For models that no rule of the manifest fits. Without `data` nothing but random values is compared: name yours.
recipe: compressctl/v1
task: custom
stages:
  - {use: quantize.weights, bits: 8}
"""


def manifest_for(folder: Path, name: str) -> Mapping[str, str]:
    """The texts of two files by name, which are to lie beside the folder's models. Raises UsageError for a folder without any."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="name one that holds .onnx files")
    files = [path.relative_to(folder) for path in files_for(folder, "**/*.onnx")]
    if not files:
        raise UsageError(
            f"{folder} holds no .onnx file", hint="models of other sources are named one by one, see docs/zoo.md"
        )
    pattern = "**/*.onnx" if any(len(path.parts) > 1 for path in files) else "*.onnx"
    return {f"{name}.yaml": _manifest(name, pattern, len(files)), f"{name}-recipe.yaml": _RECIPE}


def _manifest(name: str, pattern: str, count: int) -> str:
    return f"""# {count} model{"" if count == 1 else "s"}. See `compressctl zoo plan {name}.yaml` for which recipe each gets, and why.
zoo: compressctl/v1
defaults:
  recipe: {json.dumps(f"{name}-recipe.yaml")}
  resources: {{cores: 1, memory: 4GiB, time: 30m}}
# recipes:                       # the first that fits counts
#   - {{when: {{ops: [LSTM, GRU]}}, use: recurrent.yaml}}
models:
  - {{glob: {json.dumps(pattern)}}}
budget: {{at_most_failed: 0}}
"""
