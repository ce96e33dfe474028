"""A network that ends in a Softmax or a Sigmoid learns what it learns without."""

import pytest
import torch
from torch import Tensor

from compressctl.core.tasks import Task
from compressctl.training.logits import as_binary_logits, as_logits
from compressctl.training.objective import task_loss
from compressctl.training.supervision.kd import as_classes, kl

SCORES = 3 * torch.randn(16, 5, 4, generator=torch.Generator().manual_seed(0))
CASES: list[tuple[Task, Tensor, Tensor, int | None]] = [
    ("classification", SCORES[:, :, 0], torch.arange(16) % 5, 1),
    ("classification", SCORES[:, :, 0], torch.softmax(SCORES[:, :, 1], 1), 1),
    ("multi-label", SCORES[:, :, 0], (SCORES[:, :, 1] > 0).long(), None),
    ("segmentation", SCORES, torch.arange(64).reshape(16, 4) % 5, 1),
    ("segmentation", SCORES[:, :1], (SCORES[:, 1] > 0).long(), None),
    ("token-classification", SCORES.transpose(1, 2), torch.arange(64).reshape(16, 4) % 5, 2),
    ("language-model", SCORES.transpose(1, 2), torch.arange(64).reshape(16, 4) % 5, 2),
]


@pytest.mark.parametrize(
    ("task", "scores", "labels", "axis"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_label_losses_are_those_of_the_logits(task: Task, scores: Tensor, labels: Tensor, axis: int | None) -> None:
    loss, found = task_loss(task), []
    for has_end in (False, True):
        logits = scores.clone().requires_grad_()
        ended = logits if not has_end else logits.sigmoid() if axis is None else logits.softmax(axis)
        value = loss(ended, labels)
        value.backward()  # type: ignore[no-untyped-call]
        found.append((value.detach(), logits.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-4)
    assert found[0][1] is not None
    assert found[1][1] is not None
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_teachers_probabilities_teach_what_its_logits_do(temperature: float) -> None:
    student, teacher = SCORES[:, :, 0].clone().requires_grad_(), SCORES[:, :, 1]
    plain = kl(as_classes(student, 1), as_classes(teacher, 1), temperature)
    ended = kl(as_classes(student.softmax(1), 1), as_classes(teacher.softmax(1), 1), temperature)
    assert ended.item() == pytest.approx(plain.item(), rel=1e-4)
    one, other = student[:, :1], teacher[:, :1]
    single = kl(as_classes(one.sigmoid(), 1), as_classes(other.sigmoid(), 1), temperature)
    assert single.item() == pytest.approx(kl(as_classes(one, 1), as_classes(other, 1), temperature).item(), rel=1e-3)


def test_what_is_no_probability_stays() -> None:
    for values in (
        SCORES[:, :, 0],
        torch.zeros(3, 4),
        torch.full((2, 4), 0.3),
        torch.zeros(0, 4),
        torch.tensor([[1, 0]]),
    ):
        assert as_logits(values) is values
    assert as_binary_logits(SCORES) is SCORES
    assert as_binary_logits(one := torch.tensor([[0.5]])) is one
    extreme = as_logits(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert torch.isfinite(extreme).all()
    assert torch.isfinite(as_binary_logits(torch.tensor([0.0, 1.0]))).all()
