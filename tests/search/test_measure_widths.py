"""What tables say of channels and blocks is what the networks that are cut there show."""

from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from support.costs import total_macs  # noqa: E402
from support.digit_runs import context, digits_data, digits_model  # noqa: E402

from compressctl.core.model import OnnxModel, TorchModel  # noqa: E402
from compressctl.search.measure_widths import _Measuring  # noqa: E402
from compressctl.search.tables import LayerOption, LayerTable, Tables  # noqa: E402
from compressctl.search.width_program import WidthProgram  # noqa: E402
from compressctl.search.width_tables import WidthTables  # noqa: E402


def by_macs(models: Sequence[object]) -> tuple[float, ...]:
    """A clock that takes a microsecond for a thousand multiply-accumulates, whatever computes them."""
    found = []
    for model in models:
        assert isinstance(model, OnnxModel)
        found.append((total_macs(model.body) or 0) / 1e6 + 0.01)
    return tuple(found)


def known() -> Tables:
    """Of the graph: one layer may have 4 bits."""
    options = (
        LayerOption(name="int8", width="int8", bytes=1, adds_ms=0.0, distance={"int8": 0.0}),
        LayerOption(name="int4", width="int4", bytes=1, adds_ms=0.0, distance={"int4": 0.25}),
    )
    layer = LayerTable(
        name="block4.body.0.conv", nodes=("block4.body.0.conv",), op="Conv", parameters=1, options=options
    )
    return Tables(key="", distance="KL", samples=1, float_bytes=570_000, layers=(layer,), seconds=1.0)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    found = digits_model("digits-resnet")
    assert isinstance(found, TorchModel)
    return found


def measured(model: TorchModel, seconds: float | None, *, is_timed: bool = False) -> WidthTables:
    data = digits_data()
    run = context(Path(), data, clock=by_macs if is_timed else None)
    return _Measuring(model, run, data.split("train"), known(), seconds).tables("key", {})


@pytest.fixture(scope="module")
def tables(model: TorchModel) -> WidthTables:
    return measured(model, None, is_timed=True)


def test_the_whole_loses_and_saves_nothing_and_less_loses_more(tables: WidthTables) -> None:
    assert tables.samples == 256
    assert {one.name for one in tables.blocks} == {"block1", "block2"}
    assert {group.block for group in tables.groups} == {None, "block1", "block2"}
    for group in tables.groups:
        whole, *_, narrowest = group.options
        assert (whole.distance, whole.saves_ms) == (0.0, 0.0)
        assert narrowest.distance > 0
        assert [one.channels for one in group.options] == sorted((one.channels for one in group.options), reverse=True)
        saved = [one.saves_ms or 0.0 for one in group.options]
        assert saved == sorted(saved)


def test_time_is_what_the_clock_says(tables: WidthTables) -> None:
    """Multiply-accumulates of convolutions take all of it here, so that a cut saves its own."""
    whole = sum(max(size.macs for size in layer.sizes) for layer in tables.layers)
    assert tables.integer_ms == pytest.approx(whole / 1e6 + 0.01, rel=0.02)
    block = next(one for one in tables.blocks if one.name == "block1")
    own = sum(max(size.macs for size in layer.sizes) for layer in tables.layers if layer.block == "block1")
    assert block.saves_ms == pytest.approx(own / 1e6, rel=0.05)


def test_only_a_layer_that_was_looked_at_in_4_bits_may_have_them(tables: WidthTables) -> None:
    found = WidthProgram(tables, has_four=True).solve(most_bytes=1.0)
    assert found is None
    half = sum(max(size.parameters for size in layer.sizes) for layer in tables.layers) * 2
    found = WidthProgram(tables, has_four=True).solve(most_bytes=half)
    assert found is not None
    assert set(found.four) <= {"block4.body.0.conv"}


def test_what_there_was_no_time_for_is_named(model: TorchModel) -> None:
    found = measured(model, 1e-9)
    assert not found.blocks
    assert not found.groups
    assert {text.partition(":")[0] for text in found.left_out} >= {"block1", "block2", "stem.conv"}


def test_a_cut_that_does_not_run_is_named_and_left_out(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressctl.techniques.prune.narrower import Narrower

    plain = Narrower.settled

    def broken(self: Narrower, kept: dict[str, int], blocks: Sequence[str], *rest: object) -> TorchModel:
        if "block1.body.0.conv" in kept:
            raise RuntimeError("shape '[64]' is invalid")
        return plain(self, kept, blocks, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Narrower, "settled", broken)
    found = measured(model, None)
    assert "block1.body.0.conv" not in {group.name for group in found.groups}
    assert any("block1.body.0.conv: the network that is cut there does not run" in text for text in found.left_out)
    assert all("block1.body.0.conv" not in layer.groups for layer in found.layers)
