"""Labels that do not fit the task are refused with their shapes, before anything takes long."""

import numpy as np
import pytest

from compressctl.core.data import Batch
from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.tasks import Learning, Task
from compressctl.training.preflight import check_labels

CLASSES = np.array([0, 1, 2, 1])


def check(outputs: tuple[int | str, ...], labels: np.ndarray | None, task: Task) -> None:
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", *outputs)),)
    )
    batch = Batch({"x": np.zeros((4, 2), np.float32)}, labels, np.arange(4))
    check_labels(OnnxModel(None, signature), batch, Learning(task))


@pytest.mark.parametrize(
    ("outputs", "labels", "task"),
    [
        ((3,), CLASSES, "classification"),
        ((3,), CLASSES[:, None], "classification"),
        ((3,), CLASSES.astype(np.float32), "classification"),
        ((3, 1, 1), CLASSES, "classification"),
        ((1,), CLASSES % 2, "classification"),
        (("classes",), CLASSES * 10**6, "classification"),
        ((3,), None, "classification"),
        ((), np.zeros(4, np.float32), "regression"),
        ((1,), np.zeros(4, np.float32), "regression"),
        ((2, 3), np.zeros((4, 6), np.float32), "regression"),
        (("length", 3), np.zeros((4, 6), np.float32), "regression"),
        ((8, 8), np.zeros((4, 5), np.float32), "custom"),
    ],
)
def test_labels_that_fit_are_let_through(outputs: tuple[int | str, ...], labels: np.ndarray | None, task: Task) -> None:
    check(outputs, labels, task)


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "message", "hint"),
    [
        (
            (3, 6, 6),
            np.zeros((4, 6, 6), np.int64),
            "classification",
            r"\(n, 6, 6\) int64 .* \(n, 3, 6, 6\)",
            "for each pixel",
        ),
        ((3,), np.eye(4, 3, dtype=np.float32), "classification", r"labels are \(n, 3\) float32", "argmax"),
        ((3,), np.zeros((4, 2), np.int64), "classification", r"labels are \(n, 2\)", "one whole number per sample"),
        ((3, 6, 6), CLASSES, "classification", r"outputs \(n, 3, 6, 6\)", "pool or flatten"),
        ((2,), CLASSES, "classification", "tells 2 classes apart, 0 to 1, and a label is 2", "from 0"),
        ((3,), CLASSES - 1, "classification", "a label is -1", "from 0"),
        ((1,), CLASSES, "classification", "tells 2 classes apart", "from 0"),
        ((3,), CLASSES / 2, "classification", r"a label is 0\.5", "regression"),
        ((2,), np.zeros(4, np.float32), "regression", r"labels are \(n,\) and the outputs \(n, 2\)", "first output"),
        (
            (1,),
            np.array([0, np.nan, np.inf, 1]),
            "regression",
            "labels of 2 of the first 4 samples are no numbers",
            "mend",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_what_the_task_takes(
    outputs: tuple[int | str, ...], labels: np.ndarray, task: Task, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        check(outputs, labels, task)
    assert hint in str(refused.value.hint)
