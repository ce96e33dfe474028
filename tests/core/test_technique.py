"""What a technique declares about forms and needs."""

from pydantic import BaseModel

from compressctl.core.model import Form
from compressctl.core.technique import Need, TechniqueSpec


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


def test_needs_may_depend_on_the_params() -> None:
    def more(params: Params) -> frozenset[Need]:
        return frozenset({Need.CALIBRATION_DATA}) if params.method == "wanda" else frozenset()

    spec = _spec(Form.ONNX, Form.ONNX, needs=frozenset({Need.LABELS}), some_need=more)
    assert spec.needs_for(Params()) == {Need.LABELS}
    assert spec.needs_for(Params(method="wanda")) == {Need.LABELS, Need.CALIBRATION_DATA}
