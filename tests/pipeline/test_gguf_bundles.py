"""Compressed language models as GGUF files: the codes that stages chose are the codes in the file, and llama.cpp scores them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from compressctl.cli.main import app

pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from support.tiny_transformers import WORDS, language_model  # noqa: E402

RECIPE = """
recipe: compressctl/v1
name: tiny
task: language-model
model: {source: huggingface, path: model}
data: {source: text, files: [text.txt], tokenizer: model, window: 32, calibration: 4, validation: 4, test: 6}
stages:
  - {use: quantize.weights, bits: 4, group_size: 32, symmetric: true, if_slower: keep}
export: [{backend: onnxruntime, bundle: gguf}]
budget: {bundle: {size: 60kB, perplexity_rise: 1000}}
"""


def _apply(folder: Path, recipe: str) -> tuple[int, str]:
    language_model(folder / "model")
    random = np.random.default_rng(0)
    (folder / "text.txt").write_text(" ".join(random.choice(WORDS, 900)))
    (folder / "r.yaml").write_text(recipe)
    arguments = ["apply", str(folder / "r.yaml"), "--output", str(folder / "run"), "--no-cache"]
    done = CliRunner().invoke(app, [*arguments, "--measure", "untimed"])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("bits: 4, group_size: 32, symmetric: true", "Q4_0"),
        ("bits: 4, group_size: 32, symmetric: false", "Q4_1"),
        ("bits: 8, group_size: 32, symmetric: true", "Q8_0"),
    ],
)
def test_codes_become_blocks_and_llama_cpp_scores_them(tmp_path: Path, stage: str, kind: str) -> None:
    code, said = _apply(tmp_path, RECIPE.replace("bits: 4, group_size: 32, symmetric: true", stage))
    assert code == 0, said
    file = tmp_path / "run/artifacts/onnxruntime/gguf/model.gguf"
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == kind
    part = json.loads((tmp_path / "run/report.json").read_text())["backends"][0]
    bundle = part["bundle"]
    assert bundle["tool"] == "llama.cpp"
    assert bundle["compressed"]["size_bytes"] == file.stat().st_size
    assert bundle["baseline"]["perplexity"] == pytest.approx(part["baseline"]["score"]["value"], rel=1e-4)
    # llama.cpp rounds what goes into products with such weights to 8 bits.
    assert bundle["compressed"]["perplexity"] == pytest.approx(part["compressed"]["score"]["value"], rel=1e-2)


@pytest.mark.slow
def test_groups_that_no_block_holds_are_refused_with_the_layer(tmp_path: Path) -> None:
    code, said = _apply(tmp_path, RECIPE.replace("group_size: 32", "group_size: 16"))
    assert code == 4
    assert "cannot be stored in a GGUF file with the codes that it has" in said
    assert "a group_size of 32 or a multiple of it" in said
