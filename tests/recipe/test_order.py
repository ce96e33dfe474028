"""Stages that cannot stand where a recipe puts them."""

from pathlib import Path

import pytest

from compressctl.core.errors import Problem, RecipeError
from compressctl.core.model import Form
from compressctl.core.technique import techniques
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load

ON_GRAPHS = [name for name in techniques.names() if Form.ONNX in techniques.get(name).forms]
SIZED = {"quantize.mixed": ", size: 0.5"}


def problems(folder: Path, *stages: str) -> list[Problem]:
    path = folder / "recipe.yaml"
    head = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
    path.write_text(f"{head}stages: [{', '.join(stages)}]\n")
    try:
        make_plan(load(path), None)
    except RecipeError as error:
        return list(error.problems)
    return []


ON_FLOATS = [
    name
    for name in ON_GRAPHS
    if techniques.get(name).gives is not Form.TORCH
    and not getattr(techniques.get(name).params, "takes_quantized", False)
]


def test_convolutions_that_stayed_float_can_be_unrolled_behind_a_stage_that_quantizes(tmp_path: Path) -> None:
    assert problems(tmp_path, "{use: cast}", "{use: unroll}") == []


@pytest.mark.parametrize("use", ON_FLOATS)
def test_what_is_quantized_already_is_no_graph_to_work_on(use: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "{use: quantize.static}", f"{{use: {use}{SIZED.get(use, '')}}}")
    assert problem.message == "the model is already quantized by an earlier stage"
    assert problem.path == "stages[1].use"


def test_a_quantized_model_can_teach_a_network_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 2)\n")
    student = "{use: distill.logits, student: {factory: 'net.py:make'}}"
    assert problems(tmp_path, "{use: quantize.static}", student) == []


@pytest.mark.parametrize(
    "use", ["prune.unstructured", "factorize.svd", "factorize.tucker", "factorize.cp", "share.kmeans"]
)
def test_a_graph_is_not_trained(use: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe: compressctl/v1\nmodel: {source: onnx, path: m.onnx}\ndata: {source: digits}\n"
        f"stages: [{{use: {use}, finetune: {{epochs: 1}}}}]\n"
    )
    with pytest.raises(
        RecipeError, match="training needs a torch model, but the model is an ONNX graph here"
    ) as caught:
        make_plan(load(path), None)
    assert [problem.path for problem in caught.value.problems] == ["stages[0].finetune"]


@pytest.mark.parametrize(
    ("first", "second", "is_fine"),
    [
        ("quantize.weights", "quantize.static", True),
        ("quantize.static", "quantize.weights", False),
        ("quantize.static", "quantize.static", False),
        ("quantize.dynamic", "quantize.static", False),
        ("quantize.weights", "quantize.weights", False),
    ],
)
def test_integers_come_after_weights_that_were_rounded_alone(
    first: str, second: str, tmp_path: Path, *, is_fine: bool
) -> None:
    found = [problem.message for problem in problems(tmp_path, f"{{use: {first}}}", f"{{use: {second}}}")]
    assert found == ([] if is_fine else ["the model is already quantized by an earlier stage"])
