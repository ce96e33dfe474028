"""The program over channels, blocks and bits: the best of all networks within the limits, and one that can be built."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.measure.results import Speedup
from compressctl.search.document import Figures, Point
from compressctl.search.measure_widths import rates
from compressctl.search.request import Goal
from compressctl.search.space import Candidate
from compressctl.search.trim import least_saved, stages_of, trims
from compressctl.search.width_program import Trimmed, WidthProgram
from compressctl.search.width_tables import (
    BlockTable,
    Combination,
    GroupTable,
    SizedLayer,
    WidthOption,
    WidthTables,
)

INNER, STREAM = (16, 8), (16, 8)


def group(name: str, widths: tuple[int, ...], saves: float, far: float, block: str | None = None) -> GroupTable:
    options = [
        WidthOption(channels=width, saves_ms=saves * (1 - width / widths[0]), distance=far * (1 - width / widths[0]))
        for width in widths
    ]
    return GroupTable(name=name, layers=(name,), kind=name, block=block, options=tuple(options))


def layer(name: str, groups: Mapping[str, tuple[int, ...]], block: str | None, four: float | None) -> SizedLayer:
    sizes = [
        Combination(
            channels=channels, parameters=9 * _product(channels), outputs=channels[0], macs=90 * _product(channels)
        )
        for channels in itertools.product(*groups.values())
    ]
    return SizedLayer(
        name=name, groups=tuple(groups), block=block, sizes=tuple(sizes), has_integers=True, distance_int4=four
    )


def _product(values: tuple[int, ...]) -> int:
    return values[0] * (values[1] if len(values) > 1 else 3)


def tables(
    saves: float = 0.2, far: float = 1.0, block_far: float = 2.0, four: float = 0.1, timed: bool = True
) -> WidthTables:
    """A stem, a residual block of two layers around `inner`, and a head."""
    return WidthTables(
        key="k", distance="d", samples=10, float_ms=4.0 if timed else None, integer_ms=2.0 if timed else None, float_bytes=30_000,
        groups=(group("stem", STREAM, saves, 2 * far), group("inner", INNER, saves, far, "block")),
        blocks=(BlockTable(name="block", saves_ms=3 * saves, distance=block_far),),
        layers=(
            layer("stem", {"stem": STREAM}, None, four),
            layer("block.first", {"stem": STREAM, "inner": INNER}, "block", four),
            layer("block.second", {"stem": STREAM, "inner": INNER}, "block", four),
            layer("head", {"stem": STREAM}, None, None),
        ),
        seconds=1.0,
    )  # fmt: skip


def everything(of: WidthTables, *, has_four: bool) -> Iterator[tuple[float, float, float]]:
    """Bytes, milliseconds saved and loss of each network that there is, as somebody would add them up."""
    stem, inner = of.groups
    for first, second, gone in itertools.product(stem.options, inner.options, (False, True)):
        if gone and second.channels != inner.options[0].channels:
            continue
        far = first.distance + (of.blocks[0].distance if gone else second.distance)
        saved = (first.saves_ms or 0.0) + ((of.blocks[0].saves_ms or 0.0) if gone else (second.saves_ms or 0.0))
        there = [one for one in of.layers if not (gone and one.block)]
        for fours in itertools.product((False, True), repeat=len(there)):
            if any(
                four and (one.distance_int4 is None or not has_four) for one, four in zip(there, fours, strict=True)
            ):
                continue
            size, rounded = 0.0, 0.0
            for one, four in zip(there, fours, strict=True):
                wanted = tuple({"stem": first, "inner": second}[name].channels for name in one.groups)
                found = next(part for part in one.sizes if part.channels == wanted)
                size += found.parameters * (0.5 if four else 1.0) + 4 * found.outputs
                rounded += (one.distance_int4 or 0.0) if four else 0.0
            yield size, saved, far + rounded


@settings(max_examples=60, deadline=None)
@given(
    saves=st.floats(0, 0.5), far=st.floats(0.01, 3), block_far=st.floats(0.01, 5), four=st.floats(0.001, 1), size=st.integers(100, 9000),
    ms=st.floats(0.5, 2.5), has_four=st.booleans(),
)  # fmt: skip
def test_it_is_what_enumeration_finds(
    saves: float, far: float, block_far: float, four: float, size: int, ms: float, has_four: bool
) -> None:
    of = tables(saves, far, block_far, four)
    fitting = [
        loss for bytes_, saved, loss in everything(of, has_four=has_four) if bytes_ <= size and 2.0 - saved <= ms + 1e-9
    ]
    found = WidthProgram(of, has_four=has_four).solve(most_bytes=size, least_saved_ms=2.0 - ms - 1e-9)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert found.pruned + found.rounded == pytest.approx(min(fitting), abs=1e-4)
    assert found.bytes <= size
    assert 2.0 - found.saves_ms <= ms + 1e-6
    assert (found.bytes, found.saves_ms) in [
        (pytest.approx(bytes_), pytest.approx(saved, abs=1e-9))
        for bytes_, saved, _ in everything(of, has_four=has_four)
    ]
    if "block" in found.gone:
        assert "inner" not in found.kept, "a stage that cut it would match nothing"
        assert not any(name.startswith("block.") for name in found.four)


def test_nothing_is_cut_without_a_limit() -> None:
    found = WidthProgram(tables(), has_four=True).solve()
    assert found is not None
    assert (found.kept, found.gone, found.four, found.share) == ({}, (), (), 1.0)


def test_a_recipe_names_what_is_cut_and_nothing_else() -> None:
    made = Trimmed({"inner": 8}, ("other", "an[odd]*name"), ("stem",), 0.5, 0.1, 100, 0.1, 0.0)
    first, second, third = stages_of(made, tables())
    assert (first["id"], first["match"], second["id"]) == ("shorter", "other", "shorter2")
    assert second["match"] == "an[[]odd][*]name"
    assert third["overrides"] == [{"match": "*", "keep": 1.0}, {"match": "inner", "keep": 0.5}]
    assert not list(stages_of(Trimmed({}, (), (), 1.0, 0.0, 100, 0.0, 0.0), tables()))


def point(size: float, ratio: float | None) -> Point:
    speed = None if ratio is None else Speedup(ratio=ratio, low=ratio, high=ratio, alternating=ratio, verdict="faster")
    figures = Figures(total_bytes=round(size), smaller=30_000 / size, transport_bytes=1, speed=speed, loss=None)
    return Point(
        name="p", family="f", words="", key="k", state="measured", figures=figures, seconds=1, measure_seconds=1, weight=1, kind="shaped", risk=1,
        recipe={},
    )  # fmt: skip


@pytest.mark.parametrize("time", [0.5, 1.0, 1.8])
@pytest.mark.parametrize("beside", [200, 3000])
def test_what_is_offered_was_measured_to_keep_the_limits(time: float, beside: int) -> None:
    """The runtime saves more or less than the tables say, and a file has more beside its weights."""
    of, built = tables(saves=0.5), []
    whole = WidthProgram(of, has_four=False).whole_bytes
    made: list[Trimmed] = []
    solve = WidthProgram.solve

    def noting(self: WidthProgram, **limits: float | None) -> Trimmed | None:
        found = solve(self, **limits)  # type: ignore[arg-type]
        made.extend([] if found is None else [found])
        return found

    def build(one: Candidate) -> Point:
        built.append(one.name)
        return point(made[-1].bytes + beside, 4.0 / (2.0 - time * made[-1].saves_ms))

    goal, limit = Goal(speedup=2.3), 6_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WidthProgram, "solve", noting)
        found = trims(of, goal, limit, point(whole + 200, 2.0), build)
    for shape in found.shapes:
        of_shape = made[built.index(f"{shape.label}-untrained")]
        assert of_shape.bytes + beside <= limit
        assert 4.0 / (2.0 - time * of_shape.saves_ms) >= 2.3
    assert found.shapes, found.refused


@given(st.floats(0.1, 3), st.floats(0.2, 1), st.floats(0.2, 0.9), st.integers(1, 4))
def test_what_has_to_be_saved_is_read_off_the_line_that_files_lie_on(
    slope: float, whole: float, wanted: float, files: int
) -> None:
    took = [(0.1 * n, whole - slope / 4.0 * 0.1 * n) for n in range(files)]
    found = least_saved(took, wanted, tables())
    assert found is not None
    times = 1.0 if files == 1 else max(slope, 0.25)
    if files == 1 or slope >= 0.25:
        assert whole - times / 4.0 * found == pytest.approx(wanted)


def test_without_a_clock_no_speed_is_promised() -> None:
    found = trims(tables(timed=False), Goal(speedup=2.0), None, None, lambda one: None)
    assert not found.shapes
    assert set(found.refused.values()) == {"nothing was timed"}


@given(
    st.lists(st.tuples(st.floats(1e3, 1e7), st.floats(-0.1, 1)), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(1e3, 1e7), st.floats(-0.1, 1)), min_size=0, max_size=6),
)
def test_noise_makes_no_cut_cost_time(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    found = rates({"one": one, "other": other}, ["one", "other", "never timed"])
    assert all(rate >= 0 for rate in found.values())
    every = [*one, *other]
    common = max(sum(saved for _, saved in every), 0.0) / sum(gone for gone, _ in every)
    assert found["never timed"] == pytest.approx(common)
    assert min(found.values()) >= 0.1 * common * (1 - 1e-9)


def test_rates_are_those_of_exact_timings() -> None:
    found = rates({"fast": [(1e6, 0.1), (2e6, 0.2)], "slow": [(1e6, 0.1), (3e6, 0.3)]}, ["fast", "slow"])
    assert list(found.values()) == pytest.approx([1e-7, 1e-7])
    assert rates({}, ["one"]) == {}
