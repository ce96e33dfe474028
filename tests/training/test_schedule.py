import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compressctl.training.params import TrainingParams
from compressctl.training.schedule import momentum, rate

SCHEDULES = ["cosine", "linear", "step", "one-cycle", "constant"]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(steps=st.integers(1, 400), warmup=st.floats(0, 1))
def test_a_rate_is_a_share_that_rises_then_never_rises_again(schedule: str, steps: int, warmup: float) -> None:
    params = TrainingParams(schedule=schedule, warmup=warmup)
    rates = np.array([rate(step, steps, params) for step in range(steps)])
    assert ((rates > 0) & (rates <= 1)).all()
    top = round(warmup * steps)
    assert (np.diff(rates[:top]) > 0).all()
    assert (np.diff(rates[top:]) <= 1e-12).all()


def test_one_cycle_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1000, final_div_factor=400)
    params, ours, theirs = TrainingParams(schedule="one-cycle"), [], []
    for step in range(999):
        ours.append((0.1 * rate(step, 1000, params), momentum(step, 1000, params)))
        theirs.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        cycle.step()
    np.testing.assert_allclose(ours, theirs, atol=6e-4)  # theirs begins half a step earlier


def test_steps_fall_where_they_are_said_to() -> None:
    params = TrainingParams(schedule="step", warmup=0, step_at=(0.5, 0.8), step_factor=0.1)
    assert [round(rate(step, 10, params), 9) for step in range(10)] == [1] * 5 + [0.1] * 3 + [0.01] * 2


def test_a_step_outside_the_training_is_refused() -> None:
    with pytest.raises(ValidationError, match="step_at holds shares"):
        TrainingParams(step_at=(30, 60))
