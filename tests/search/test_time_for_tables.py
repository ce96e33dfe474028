"""Looking at layers never takes a search's time: it is given up at its limit, and Ctrl-C is still Ctrl-C."""

from types import SimpleNamespace
from typing import Any

import pytest

from compressctl.core.errors import StageError
from compressctl.core.events import Event
from compressctl.search import search as searching


def running(left: float | None, each: float = 10.0) -> Any:
    """each: seconds that a file takes."""
    told: list[str] = []
    one = SimpleNamespace(
        clock=SimpleNamespace(left=left, reserved=5.0),
        points={"int8": SimpleNamespace(seconds=each)},
        notes=told,
        listeners=[],
        bench=None,
        tell=told.append,
        can_train=False,
        costs=None,
    )
    one._for_tables = lambda given: searching._Running._for_tables(one, given)
    return one


def test_without_time_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "tables_of", lambda *_, **__: pytest.fail("begun"))
    one = running(3.0)
    assert searching._Running._tables(one) is None
    assert "there was no time left" in one.notes[0]


def test_at_its_limit_it_is_given_up_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(bench: object, seconds: float, listeners: list[Any], tell: object, *, is_timed: bool) -> None:
        assert is_timed
        assert seconds == pytest.approx(0.35 * 30)
        for listener in listeners:
            listener._end = 0.0  # the clock went on
            listener(Event("step.progress", 0.0, "tables"))

    monkeypatch.setattr(searching, "tables_of", slow)
    one = running(30.0)
    assert searching._Running._tables(one) is None
    assert "it was not done after 18 s" in one.notes[0]


def test_ctrl_c_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "tables_of", stopped)
    for left in (None, 30.0):
        with pytest.raises(KeyboardInterrupt):
            searching._Running._tables(running(left))


def test_a_model_that_cannot_be_looked_at_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise StageError("quantized before")

    monkeypatch.setattr(searching, "tables_of", refused)
    one = running(None)
    assert searching._Running._tables(one) is None
    assert one.notes == ["Layers were not looked at one by one: quantized before"]


def test_layers_get_the_time_that_nothing_else_will_need() -> None:
    assert searching._Running._for_tables(running(600.0, each=2.0), 600.0) == pytest.approx(600 - 5 - 30)
    assert searching._Running._for_tables(running(600.0, each=100.0), 600.0) == pytest.approx(0.35 * 600)
