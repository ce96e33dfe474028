import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.tasks import Learning  # noqa: E402
from compressctl.training.data import TensorBatch  # noqa: E402
from compressctl.training.objective import task_loss, task_objective  # noqa: E402

RNG = np.random.default_rng(0)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_a_language_model_is_asked_for_the_next_token() -> None:
    outputs, tokens = RNG.normal(size=(3, 5, 7)).astype(np.float32), RNG.integers(0, 7, (3, 5))
    shares = log_softmax(outputs)
    expected = -np.mean([shares[n, t, tokens[n, t + 1]] for n in range(3) for t in range(4)])
    loss = task_loss("language-model")(torch.as_tensor(outputs), torch.as_tensor(tokens))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_tokens_that_are_ignored_change_no_loss_and_get_no_gradient() -> None:
    outputs, tokens = RNG.normal(size=(3, 5, 7)).astype(np.float32), RNG.integers(0, 7, (3, 5))
    tokens[1, 2:] = -100
    shares = log_softmax(outputs)
    counted = [(n, t) for n in range(3) for t in range(4) if tokens[n, t + 1] != -100]
    expected = -np.mean([shares[n, t, tokens[n, t + 1]] for n, t in counted])
    given = torch.as_tensor(outputs).requires_grad_()
    loss = task_loss("language-model")(given, torch.as_tensor(tokens))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert given.grad is not None
    assert not given.grad[1, 1:].any()


def test_a_batch_in_which_no_token_counts_has_a_loss_of_zero() -> None:
    loss = task_loss("language-model", 0.1)(torch.zeros(2, 4, 7), torch.full((2, 4), -100))
    assert loss.item() == 0


def test_training_without_labels_is_one_message() -> None:
    with pytest.raises(UsageError, match="training needs labels"):
        task_objective("language-model")(torch.nn.Embedding(7, 7), TensorBatch((torch.zeros(2, 3).long(),), None))


def test_embeddings_with_wanted_vectors_are_compared_by_cosine() -> None:
    outputs, wanted = RNG.normal(size=(4, 6)).astype(np.float32), RNG.normal(size=(4, 6)).astype(np.float32)
    cosine = (outputs * wanted).sum(1) / np.linalg.norm(outputs, axis=1) / np.linalg.norm(wanted, axis=1)
    loss = task_loss("embedding")(torch.as_tensor(outputs), torch.as_tensor(wanted))
    assert loss.item() == pytest.approx(1 - cosine.mean(), rel=1e-5)


def test_embeddings_with_classes_are_told_apart() -> None:
    outputs, labels = RNG.normal(size=(6, 3)).astype(np.float32), np.array([0, 0, 1, 1, 1, 2])
    unit = outputs.astype(np.float64) / np.linalg.norm(outputs, axis=1, keepdims=True)
    logits = unit @ unit.T / 0.1
    losses = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        near = [j for j in others if labels[j] == labels[i]]
        total = np.log(np.exp(logits[i, others]).sum())
        losses.append(-np.mean([logits[i, j] - total for j in near]) if near else 0.0)
    loss = task_loss("embedding")(torch.as_tensor(outputs), torch.as_tensor(labels))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("custom", torch.zeros(2), "no loss for task 'custom'"),
        ("embedding", torch.zeros(2), "scores of pairs, wanted vectors of its own size or classes"),
        ("language-model", torch.zeros(2, dtype=torch.int64), r"\(samples, tokens, vocabulary\)"),
    ],
)
def test_what_cannot_be_trained_is_one_message(task: str, labels: "torch.Tensor", message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task_loss(task)(torch.zeros(2, 3), labels)


def test_places_without_a_label_teach_nothing() -> None:
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0], labels[1, 0] = 255, -100
    given = task_loss("segmentation")(outputs, labels)
    assert torch.isclose(given, torch.nn.functional.cross_entropy(outputs[1:, :, 1:], labels[1:, 1:]))
    assert task_loss("segmentation")(outputs, torch.full((2, 4, 4), -100)) == 0


def test_one_score_for_each_place_is_binary() -> None:
    outputs, labels = (
        torch.randn(2, 5, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, 1, 1, 0, -100]] * 2),
    )
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, :4], labels[:, :4].float())
    assert torch.isclose(task_loss("frame-classification")(outputs, labels), wanted)


def test_tokens_have_their_classes_last() -> None:
    outputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2, -100, 1]] * 2)
    wanted = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())
    assert torch.isclose(task_loss("token-classification")(outputs, labels), wanted)


def test_a_loss_of_the_author_s_own_gives_one_number() -> None:
    learning = Learning("custom", lambda outputs, labels: (outputs - labels).abs().mean())
    assert task_loss(learning)(torch.ones(2), torch.zeros(2)) == 1
    with pytest.raises(UsageError, match="lowers one number"):
        task_loss(Learning("custom", lambda outputs, labels: outputs))(torch.ones(2), torch.zeros(2))
    with pytest.raises(UsageError, match=r"loss: file.py:name"):
        task_loss("custom")
