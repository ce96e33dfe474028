"""What is foreseen of files whose layers are partly in float: numbers are converted where neighbours differ, and nowhere else."""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.recipe.schema import Prefer
from compressctl.search.conversions import Conversions
from compressctl.search.neighbours import OUTSIDE, neighbours
from compressctl.search.program import INTEGERS, TECHNIQUES, Choice, Program, Scales, Seen
from compressctl.search.tables import LayerOption, LayerTable, Tables

ONE = Scales(dict.fromkeys(TECHNIQUES, 1.0), 100.0)


@dataclass(frozen=True)
class Network:
    """What a network takes in truth. slower: by layer, milliseconds that its float kernel takes more. edges: maker, reader, numbers. first, last: numbers
    that are read and given. per_number: of a conversion. rest: what everything else takes."""

    slower: tuple[float, ...]
    edges: tuple[tuple[int, int, int], ...]
    first: int
    last: int
    per_number: float
    rest: float

    def takes(self, floats: frozenset[int]) -> float:
        pairs = sum(count for maker, reader, count in self.edges if (maker in floats) != (reader in floats))
        ends = (0 if 0 in floats else self.first) + (0 if len(self.slower) - 1 in floats else self.last)
        return self.rest + sum(self.slower[n] for n in floats) + self.per_number * (pairs + ends)

    def tables(self) -> Tables:
        everything = frozenset(range(len(self.slower)))
        integers = self.takes(frozenset())
        layers = []
        for n in sorted(everything):
            adds = self.takes(frozenset({n})) - integers
            reads = {f"layer{maker}": count for maker, reader, count in self.edges if reader == n}
            if n == 0:
                reads[OUTSIDE] = self.first
            options = (
                LayerOption(name="int8", width="int8", bytes=100, adds_ms=0.0, distance={"int8": 0.1 * (n + 1)}),
                LayerOption(name="float", width="float", bytes=400, adds_ms=adds, distance={"float": 0.0}),
            )
            layers.append(
                LayerTable(
                    name=f"layer{n}", nodes=(f"layer{n}",), op="Conv", parameters=100, options=options, reads=reads,
                    gives=self.last if n == len(self.slower) - 1 else 0,
                )
            )  # fmt: skip
        return Tables(
            key="k", distance="d", samples=1, float_ms=self.takes(everything), integer_ms=integers, float_bytes=400 * len(layers) + 100,
            layers=tuple(layers), seconds=1.0,
        )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> Network:
    count = draw(st.integers(2, 5))
    chain = [(n, n + 1, draw(st.integers(1, 50))) for n in range(count - 1)]
    extra = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3, unique=True))
    shortcuts = [(a, b, 7) for a, b in extra if a + 1 < b]
    slower = tuple(draw(st.lists(st.floats(0, 2), min_size=count, max_size=count)))
    return Network(
        slower,
        (*chain, *shortcuts),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 30)),
        draw(st.floats(0.001, 0.05)),
        3.0,
    )


def chosen(tables: Tables, floats: frozenset[int]) -> Choice:
    return {layer.name: layer.options[1 if n in floats else 0] for n, layer in enumerate(tables.layers)}


@given(networks(), st.data())
def test_any_mixture_takes_what_it_does_in_truth(network: Network, data: st.DataObject) -> None:
    """Single layers in float among integers are measured, and all in float, and all in integers: the rest follows."""
    tables = network.tables()
    program = Program(tables)
    count = len(network.slower)
    floats = frozenset(data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1)))
    told = program.times_faster(chosen(tables, floats))
    assert tables.float_ms is not None
    assert told == pytest.approx(tables.float_ms / network.takes(floats), rel=1e-6)


@given(networks(), st.floats(0.25, 4), st.data())
def test_around_a_choice_its_own_options_add_up_to_what_it_takes(
    network: Network, scale: float, data: st.DataObject
) -> None:
    tables = network.tables()
    conversions = Conversions.of(tables)
    count = len(network.slower)
    choice = chosen(tables, frozenset(data.draw(st.sets(st.integers(0, count - 1)))))
    adds, counted_twice = conversions.around(choice, scale)
    summed = sum(adds(name, one) for name, one in choice.items()) + counted_twice
    assert summed == pytest.approx(conversions.added(choice, scale), abs=1e-9)


@given(networks(), st.floats(0.3, 3), st.data())
def test_conversions_that_take_longer_than_single_layers_tell_are_learned(
    network: Network, scale: float, data: st.DataObject
) -> None:
    """And a file all in float stays as fast as it was measured."""
    tables = network.tables()
    program, count = Program(tables), len(network.slower)
    floats = frozenset(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1)))
    choice = chosen(tables, floats)
    assert tables.integer_ms is not None
    assert tables.float_ms is not None
    takes = tables.integer_ms + Conversions.of(tables).added(choice, scale)
    if takes < 0.1 * tables.integer_ms:
        return
    fitted = program.fitted([Seen(choice, 100, tables.float_ms / takes, None)], drop=1.0)
    spent = Conversions.of(tables).spent(choice)
    if spent > 0.05 * tables.integer_ms:
        assert fitted.time == pytest.approx(min(max(scale, 0.25), 4.0), rel=1e-3)
    everything = chosen(tables, frozenset(range(count)))
    assert tables.integer_ms + Conversions.of(tables).added(everything, fitted.time) == pytest.approx(tables.float_ms)


@given(networks(), st.floats(0.5, 2.0), st.sampled_from(["size", "speed", "quality", "balanced"]))
def test_what_is_solved_keeps_the_limits_and_is_no_worse_than_as_if_all_neighbours_were_integers(
    network: Network, least_faster: float, prefer: Prefer
) -> None:
    tables = network.tables()
    program, plain = (
        Program(tables),
        Program(
            tables.model_copy(update={"layers": tuple(one.model_copy(update={"reads": None}) for one in tables.layers)})
        ),
    )
    found = program.solve(ONE, prefer, least_faster=least_faster)
    before = plain.solve(ONE, prefer, least_faster=least_faster)
    if found is None:
        assert before is None
        return
    assert (program.times_faster(found) or 0) >= least_faster * (1 - 1e-6)
    if before is not None:
        assert program.foreseen(found, ONE).loss <= program.foreseen(before, ONE).loss + 1e-9
    every = [
        frozenset(some)
        for size in range(len(network.slower))
        for some in itertools.combinations(range(len(network.slower)), size)
    ]
    assert any(chosen(tables, floats) == found for floats in every)


def test_layers_side_by_side_in_float_are_found_where_one_alone_would_be_too_slow() -> None:
    """Two neighbours whose float kernels cost nothing more: the conversion between them counts for neither."""
    network = Network((0.0, 0.0, 0.0, 0.0), ((0, 1, 1), (1, 2, 100), (2, 3, 1)), 1, 1, 0.01, 3.0)
    tables = network.tables()
    program = Program(tables)
    least = 0.995 * tables.float_ms / network.takes(frozenset({1, 2}))  # type: ignore[operator]
    assert (program.times_faster(chosen(tables, frozenset({1}))) or 0) < least
    found = program.solve(ONE, "quality", least_faster=least)
    assert found is not None
    assert {name for name, one in found.items() if one.width not in INTEGERS} >= {"layer1", "layer2"}


def test_tables_of_earlier_versions_add_up_as_they_did() -> None:
    tables = Network((0.5, 0.5), ((0, 1, 10),), 1, 1, 0.01, 3.0).tables()
    older = tables.model_copy(update={"layers": tuple(one.model_copy(update={"reads": None}) for one in tables.layers)})
    assert Conversions.of(older) == Conversions(0.0, ())
    assert Conversions.of(tables).per_number == pytest.approx(0.01)


def test_neighbours_are_found_past_what_holds_no_weights() -> None:
    """A shortcut's sum has two makers; the model's input is outside."""
    weights = {name: numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), name) for name in "abc"}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], "first"),
        helper.make_node("Relu", ["p"], ["q"], "relu"),
        helper.make_node("Conv", ["q", "b"], ["r"], "second"),
        helper.make_node("Add", ["q", "r"], ["s"], "sum"),
        helper.make_node("MaxPool", ["s"], ["t"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["t", "c"], ["y"], "third"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [value("y", TensorProto.FLOAT, ["n", 4, 3, 3])],
        list(weights.values()),
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )
    found = neighbours(model, {name: [name] for name in ("first", "second", "third")})
    assert {name: dict(one.reads) for name, one in found.items()} == {
        "first": {OUTSIDE: 144},
        "second": {"first": 144},
        "third": {"first": 36, "second": 36},
    }
    assert [one.gives for one in found.values()] == [0, 0, 36]


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=2), st.lists(st.floats(0.001, 1), min_size=6, max_size=6))
def test_where_losses_are_chance_noise_tells_how_techniques_differ(scales: list[float], far: list[float]) -> None:
    tables = Network((0.1,) * 3, ((0, 1, 1), (1, 2, 1)), 1, 1, 0.01, 3.0).tables()
    layers = tuple(
        layer.model_copy(
            update={
                "options": (
                    LayerOption(name="int8", width="int8", bytes=100, adds_ms=0.0, distance={"int8": far[n]}),
                    LayerOption(name="int4", width="int4", bytes=50, adds_ms=0.0, distance={"int4": far[3 + n]}),
                )
            }
        )
        for n, layer in enumerate(tables.layers)
    )
    program = Program(tables.model_copy(update={"layers": layers}))
    truth = {"int8": scales[0], "int4": scales[1]}

    def noise(choice: Choice) -> float:
        return sum(truth[name] * value for one in choice.values() for name, value in one.distance.items())

    choices = [program.all_at("int8"), program.all_at("int4")]
    fitted = program.fitted([Seen(one, 100, 2.0, 0.0, noise(one)) for one in choices], drop=1.0)
    ratio = fitted.loss["int4"] / fitted.loss["int8"]
    wanted = scales[1] / scales[0]
    assert min(1.0, wanted) * 0.99 <= ratio <= max(1.0, wanted) * 1.01
