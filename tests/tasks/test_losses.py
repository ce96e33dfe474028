"""What training lowers for texts, boxes and rankings: on tiny cases, lowering it mends what the task's metric counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.objects import as_objects
from compressctl.tasks import losses
from compressctl.tasks.box_decoders import yolo
from compressctl.tasks.detection import BOXES
from compressctl.tasks.params import CtcParams, YoloParams
from compressctl.tasks.ranking import ndcg_at_10
from compressctl.tasks.text import ctc, exact
from compressctl.training.objective import task_loss

BASE = Path()


def lowered(values: Tensor, loss: Callable[[Tensor], Tensor], steps: int, rate: float) -> Tensor:
    optimizer = torch.optim.Adam([values], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(values).backward()
        optimizer.step()
    return values.detach()


@pytest.mark.parametrize(("axes", "order"), [("ntc", (0, 1, 2)), ("tnc", (1, 0, 2)), ("nct", (0, 2, 1))])
def test_a_recogniser_learns_its_texts(axes: str, order: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    texts = ["aab", "", "bca"]
    params = CtcParams(alphabet=["a", "b", "c"], axes=axes)
    start = torch.randn(3, 9, 4).permute(order).contiguous().requires_grad_()
    decode, labels = ctc(params, BASE), as_objects(texts)
    before = exact(as_objects(decode({"y": start.detach().numpy()})), labels)
    after = lowered(start, lambda scores: losses.ctc(params, BASE)(scores, texts), 150, 0.1)
    assert before < 50
    assert exact(as_objects(decode({"y": after.numpy()})), labels) == 100


def test_ctc_is_torch_s_own_of_logits_and_of_shares_with_the_blank_at_either_end() -> None:
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    first, last = (losses.ctc(CtcParams(alphabet=["a", "b"], blank=blank), BASE) for blank in (0, -1))
    shares = logits.log_softmax(2).transpose(0, 1)
    wanted = nn.functional.ctc_loss(shares, torch.tensor([[1, 2], [2, 2]]), torch.tensor([6, 6]), torch.tensor([2, 2]))
    assert torch.isclose(first(logits, ["ab", "bb"]), wanted)
    assert torch.isclose(first(logits.softmax(2), ["ab", "bb"]), wanted, atol=1e-4)
    assert torch.isclose(last(logits[..., [1, 2, 0]], ["ab", "bb"]), wanted)


def test_a_letter_that_is_none_of_the_alphabet_is_named() -> None:
    with pytest.raises(UsageError, match="'ä', which is no letter"):
        losses.ctc(CtcParams(alphabet=["a"]), BASE)(torch.zeros(1, 4, 2), ["aä"])


def test_a_text_of_too_many_letters_teaches_nothing() -> None:
    assert losses.ctc(CtcParams(alphabet=["a"]), BASE)(torch.zeros(1, 2, 2), ["aaaa"]) == 0


@pytest.mark.parametrize("axis", [1, 2])
def test_a_student_learns_its_teacher_s_boxes(axis: int) -> None:
    """A teacher with 5 boxes among 60 candidates; its student begins far off in boxes and scores."""
    random = torch.Generator().manual_seed(0)
    params = YoloParams(score=0.25, iou=None, boxes_axis=axis, activation="sigmoid")
    rows = torch.cat(
        [torch.rand(1, 60, 4, generator=random) * 60 + 20, torch.randn(1, 60, 3, generator=random) - 6], dim=2
    )
    rows[0, :5, 4] = 4
    noise = torch.cat(
        [torch.randn(1, 60, 4, generator=random) * 15, torch.randn(1, 60, 3, generator=random) * 3], dim=2
    )
    teacher, start = (each if axis == 1 else each.transpose(1, 2).contiguous() for each in (rows, rows + noise))
    distance = losses.yolo(params, BASE)
    after = lowered(start.clone().requires_grad_(), lambda outputs: distance(outputs, teacher), 200, 0.3)

    def kept(outputs: Tensor) -> tuple[int, int]:
        found = [as_objects(yolo(params, BASE)({"y": each.numpy()})) for each in (teacher, outputs)]
        tally = BOXES.tally(*found)
        return tally.kept, tally.added

    assert kept(start)[0] < 3
    assert kept(after) == (5, 0)


def test_nothing_is_between_a_network_and_itself() -> None:
    rows = torch.rand(2, 30, 6, generator=torch.Generator().manual_seed(0))
    assert losses.yolo(YoloParams(boxes_axis=1), BASE)(rows, rows) == pytest.approx(0, abs=1e-5)


def test_ranking_learns_the_order_of_each_query() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(120, 6))
    relevance = np.digitize(features @ random.normal(size=6), [-1, 1, 2])
    labels = np.stack([np.arange(120) // 12, relevance], axis=1)
    network = nn.Linear(6, 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    inputs, wanted = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    before = ndcg_at_10(network(inputs).detach().numpy(), labels)
    for _ in range(100):
        optimizer.zero_grad()
        task_loss("ranking")(network(inputs), wanted).backward()
        optimizer.step()
    assert ndcg_at_10(network(inputs).detach().numpy(), labels) > max(97, before + 10)


def test_ranking_by_hand() -> None:
    labels = torch.tensor([[0, 1], [0, 0], [1, 5]])
    found = task_loss("ranking")(torch.tensor([0.5, 1.0, 9.0]), labels)
    assert torch.isclose(found, torch.log1p(torch.exp(torch.tensor(0.5))))
    assert task_loss("ranking")(torch.ones(2, 1), torch.tensor([[0, 1], [1, 0]])) == 0
    with pytest.raises(UsageError, match="its query and its relevance"):
        task_loss("ranking")(torch.ones(3, 2), labels)
