"""Mixtures of experts: every expert computes every token, and what the router did not choose counts nothing."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from support.tiny_transformers import saved  # noqa: E402

from compressctl.graph.lower import lower  # noqa: E402
from compressctl.graph.simplify import simplify  # noqa: E402
from compressctl.sources.huggingface.network import load  # noqa: E402
from compressctl.sources.params import HuggingFaceParams  # noqa: E402


def _logits_of_transformers(folder: Path, tokens: Any) -> Any:
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad():
        return network.eval()(tokens).logits


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_logits_are_those_of_the_chosen_experts_alone(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path / name)
    tokens = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load(HuggingFaceParams(path=str(folder)), tmp_path, 0).body(tokens, torch.ones_like(tokens))["logits"]
    torch.testing.assert_close(found, _logits_of_transformers(folder, tokens), atol=1e-5, rtol=1e-5)


def test_each_expert_is_a_product_of_its_own_in_the_graph(tmp_path: Path) -> None:
    lowered = lower(load(HuggingFaceParams(path=str(saved("mixtral", tmp_path / "m"))), tmp_path, 0))
    graph = simplify(lowered.body).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kinds = [constants.get(node.input[1]) for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert kinds.count((32, 128)) == kinds.count((64, 32)) == 2 * 4  # up with gate, and down, in two layers
