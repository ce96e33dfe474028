"""What a technique declares about forms."""

import pytest
from pydantic import BaseModel

from compressctl.core.model import Form
from compressctl.core.registry import load
from compressctl.core.technique import TechniqueSpec, techniques


class Params(BaseModel):
    method: str = "magnitude"


def _spec(takes: Form | tuple[Form, ...], gives: Form | None, **more: object) -> TechniqueSpec:
    return TechniqueSpec("a", 1, "an example", Params, takes, gives, "module:function", **more)  # type: ignore[arg-type]


def test_a_technique_for_both_forms_gives_back_the_form_that_it_was_given() -> None:
    spec = _spec((Form.TORCH, Form.ONNX), None)
    assert spec.forms == (Form.TORCH, Form.ONNX)
    assert [spec.gives_from(form) for form in spec.forms] == [Form.TORCH, Form.ONNX]


def test_a_technique_for_one_form_gives_what_it_says() -> None:
    spec = _spec(Form.TORCH, Form.ONNX)
    assert spec.forms == (Form.TORCH,)
    assert spec.gives_from(Form.TORCH) is Form.ONNX


_MODELS = {(Form.TORCH,): "TorchModel", (Form.ONNX,): "OnnxModel", (Form.TORCH, Form.ONNX): "Model"}


@pytest.mark.parametrize("name", techniques.names())
def test_the_code_of_a_technique_takes_the_forms_that_it_declares(name: str) -> None:
    spec = techniques.get(name)
    assert load(spec.implementation).__annotations__["model"] == _MODELS[spec.forms]
