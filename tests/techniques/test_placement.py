"""Integers placed by the clock: the search on tables of costs, and the stage with a clock that reads one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.digit_network import Digits, as_model, context, digits, fitted_network, open_model

from compressctl.backends.dialects.cpu import active_sites, emit
from compressctl.core.errors import MissingDependencyError, StageError
from compressctl.core.events import Event, Events
from compressctl.core.machine import this_machine
from compressctl.core.model import Form, Model, OnnxModel
from compressctl.core.needs import Need, declared_needs
from compressctl.core.target import Target, resolve_profile
from compressctl.core.technique import ModelFacts, RunContext
from compressctl.techniques.quantize._placement import NOTHING, Found, search
from compressctl.techniques.quantize._placement_costs import fit
from compressctl.techniques.quantize._regions import Link, Placement, Regions, Unit, find_regions
from compressctl.techniques.quantize.params import MixedParams, StaticOverride, StaticParams
from compressctl.techniques.quantize.static import apply

TO_FLOAT, TO_CODES = 0.01, 0.015


class Free(Regions):
    """A network in which any layer may be in float whatever the others are."""

    def closed(self, floats: Any) -> Placement:
        return frozenset(floats)


@dataclass
class Table:
    """A machine on which layers and conversions take what a table says, and each file differs from itself by `noise`."""

    regions: Regions
    adds: Mapping[str, float]
    noise: float = 0.0
    base: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.calls: list[Sequence[Placement]] = []

    def takes(self, placement: Placement) -> float:
        conversions = sum(
            link.values * (TO_FLOAT if link.reader in placement else TO_CODES)
            for link in self.regions.links
            if (link.maker in placement) != (link.reader in placement)
        )
        return self.base + sum(self.adds[node] for node in placement) + conversions

    def __call__(self, placements: Sequence[Placement]) -> list[float]:
        self.calls.append(list(placements))
        return [self.takes(one) * float(np.exp(self.random.normal(0, self.noise))) for one in placements]

    def best(self) -> float:
        nodes = list(self.regions.units)
        return min(
            self.takes(frozenset(some)) for count in range(len(nodes) + 1) for some in combinations(nodes, count)
        )


def chain(seed: int, layers: int = 10, kinds: int = 4, noise: float = 0.0) -> Table:
    """Layers one after the other, of a few kinds, each read by the next one."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, kinds, layers)
    units = {f"n{i}": Unit(f"n{i}", int(kind[i]), float(random.uniform(1, 9))) for i in range(layers)}
    links = tuple(Link(f"n{i}", f"n{i + 1}", int(random.integers(1, 100))) for i in range(layers - 1))
    of_kind = random.normal(0.2, 0.7, kinds)
    adds = {node: float(of_kind[unit.kind] + random.normal(0, 0.05)) for node, unit in units.items()}
    return Table(Free(units, links, onnx.GraphProto()), adds, noise, seed=seed)


def searched(table: Table, seconds: float = 1e9, **more: Any) -> Found:
    return search(table.regions, table, seconds, clock=lambda: 0.0, **more)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_found_is_near_the_best_of_all_placements(seed: int) -> None:
    table = chain(seed)
    found = searched(table)
    assert table.takes(found.placement) <= table.takes(NOTHING)
    assert table.takes(found.placement) <= table.best() * 1.015


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.003, 0.01, 0.03]))
@settings(max_examples=25)
def test_it_is_never_slower_than_all_integers_beyond_the_noise(seed: int, noise: float) -> None:
    table = chain(seed, noise=noise)
    found = searched(table)
    assert found.placement <= table.regions.everything
    assert table.takes(found.placement) <= table.takes(NOTHING) * (1 + noise)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_moves_where_every_layer_is_as_fast_either_way(seed: int) -> None:
    """Conversions cost, layers do not differ: whatever seems faster is noise."""
    table = replace(chain(seed, noise=0.02), adds=dict.fromkeys((f"n{i}" for i in range(10)), 0.0))
    assert searched(table).placement == NOTHING


def test_a_layer_whose_gain_conversions_eat_stays_an_integer() -> None:
    """n1 saves 1 ms in float, and what it reads and makes would be converted for 1.2; n3 reads and makes little."""
    units = {name: Unit(name, name, 1.0) for name in ("n0", "n1", "n2", "n3")}
    links = (Link("n0", "n1", 60), Link("n1", "n2", 40), Link("n2", "n3", 1))
    table = Table(Free(units, links, onnx.GraphProto()), {"n0": 3.0, "n1": -1.0, "n2": 3.0, "n3": -2.0})
    found = searched(table)
    assert found.placement == {"n3"}
    assert found.ratio == pytest.approx(20 / (18 + TO_FLOAT))


def test_neighbours_go_together_where_only_that_pays() -> None:
    """Alone each saves less than its conversions cost."""
    units = {name: Unit(name, name, 1.0) for name in ("a", "b", "c", "d")}
    links = (Link("a", "b", 2), Link("b", "c", 100), Link("c", "d", 2))
    table = Table(Free(units, links, onnx.GraphProto()), {"a": 2.0, "b": -0.8, "c": -0.9, "d": 2.0})
    assert searched(table).placement == {"b", "c"}


def test_what_each_group_brings_adds_up() -> None:
    units = {f"n{i}": Unit(f"n{i}", i, 1.0) for i in range(6)}
    links = tuple(Link(f"n{i}", f"n{i + 1}", 10) for i in range(5))
    table = Table(
        Free(units, links, onnx.GraphProto()), dict(zip(units, (-2.0, -1.0, 3.0, 3.0, -1.5, 2.0), strict=True))
    )
    found = searched(table)
    assert [nodes for nodes, _ in found.parts] == [{"n0", "n1"}, {"n4"}]
    assert frozenset().union(*(nodes for nodes, _ in found.parts)) == found.placement
    for nodes, brings in found.parts:
        assert brings == pytest.approx(table.takes(found.placement - nodes) - table.takes(found.placement), rel=1e-6)


def test_the_same_measurements_give_the_same_placement() -> None:
    assert searched(chain(5, noise=0.01)) == searched(chain(5, noise=0.01))


def test_every_placement_is_timed_beside_two_builds_of_what_it_is_held_against() -> None:
    table = chain(3)
    found = searched(table, together=6)
    *rounds, first, second, third = table.calls
    assert all(len(each) <= 6 and each[0] == each[-1] for each in rounds)
    assert len({tuple(each) for each in (first, second, third)}) == 3 or found.placement == NOTHING


def test_the_time_limit_ends_the_search_with_what_is_certain() -> None:
    """Each round takes ten seconds: after one there is no time to confirm anything."""
    table, now = chain(0), 0.0

    def timed(placements: Sequence[Placement]) -> Sequence[float]:
        nonlocal now
        now += 10.0
        return table(placements)

    found = search(table.regions, timed, 5.0, clock=lambda: now)
    assert found.is_cut_short
    assert found.placement == NOTHING
    assert len(table.calls) == 1


def test_the_fit_knows_costs_that_add_up() -> None:
    table = chain(2, kinds=3)
    table.adds = {node: (0.4, -0.3, 0.9)[int(str(unit.kind))] for node, unit in table.regions.units.items()}
    nodes = list(table.regions.units)
    some = [frozenset(nodes[:count]) for count in range(1, 10)] + [frozenset(nodes[i::3]) for i in range(3)]
    costs = fit(table.regions, [(one, table.takes(one) / table.takes(NOTHING)) for one in some])
    unseen = frozenset(nodes[2:5]) | {nodes[8]}
    assert costs.of(unseen) == pytest.approx(table.takes(unseen) / table.takes(NOTHING), rel=0.02)
    assert table.takes(costs.best()[0]) <= table.best() * 1.01


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def model(data: Digits) -> Model:
    return fitted_network(data)


@pytest.fixture(scope="module")
def default(data: Digits, model: Model) -> OnnxModel:
    return made(apply(model, StaticParams(), own(data, model)).model)


MEASURED = StaticParams(placement="measured")


def own(data: Digits, model: Model, **changes: object) -> RunContext:
    """For this machine, which the clock is of."""
    return context(
        data, model, target=Target("onnxruntime", profile=resolve_profile("auto", this_machine())), **changes
    )


def made(model: Model) -> OnnxModel:
    assert isinstance(model, OnnxModel)
    return model


def floats(model: Model) -> set[str]:
    """Nodes that the plan leaves in float."""
    quant = made(model).quant
    assert quant is not None
    return set(quant.float_nodes)


def clock(adds: Mapping[str, float], whole: float = 10.0) -> Callable[[Sequence[Model]], tuple[float, ...]]:
    """A runtime on which each of these layers takes so much longer when it does not compute in integers."""

    def takes(model: Model) -> float:
        integers = {site.node for site in active_sites(made(model), Target("onnxruntime"))}
        return whole + sum(ms for node, ms in adds.items() if node not in integers)

    return lambda models: tuple(takes(model) for model in models)


def test_a_layer_that_is_faster_in_float_is_put_there_and_the_report_says_what_it_brings(
    data: Digits, model: Model, default: OnnxModel
) -> None:
    adds = {"stem": -2.0, "body": 3.0, "head": 1.0}
    found = apply(model, MEASURED, own(data, model, latency_ms=clock(adds)))
    assert floats(found.model) == {"stem"} | floats(default)
    facts = found.facts["placement"]
    assert [part["layers"] for part in facts["float_by_the_clock"]] == [["stem"]]
    assert facts["float_by_the_clock"][0]["brings_ms"] == pytest.approx(2.0, abs=1e-3)
    assert facts["speedup_over_all_integers"] == pytest.approx(10 / 8, abs=1e-3)
    assert facts["timed_on"] == {"backend": "onnxruntime", "threads": 1, "batch_size": 1}
    assert facts["placements_timed"] > 3
    assert "by the clock" in found.facts["left_in_float"]["stem"]
    assert found.facts["quantized_nodes"] == len(active_sites(default, Target("onnxruntime"))) - 1
    operators = [node.op_type for node in emit(found.model, Target("onnxruntime")).graph.node]
    assert operators.count("QuantizeLinear") > 0


def test_where_integers_are_faster_the_file_is_the_default(data: Digits, model: Model, default: OnnxModel) -> None:
    found = apply(model, MEASURED, own(data, model, latency_ms=clock({"stem": 1.0, "body": 2.0, "head": 3.0})))
    assert emit(found.model, Target("onnxruntime")) == emit(default, Target("onnxruntime"))
    assert "no placement was faster" in found.facts["placement"]["kept"]


def test_everything_may_be_faster_in_float_and_is_said(data: Digits, model: Model) -> None:
    heard: list[Event] = []
    adds = {"stem": -1.0, "body": -2.0, "residual": -0.5, "head": -1.0}
    run = own(data, model, latency_ms=clock(adds), events=Events(heard.append))
    found = apply(model, MEASURED, run)
    assert "QuantizeLinear" not in {node.op_type for node in emit(found.model, Target("onnxruntime")).graph.node}
    assert any("nothing computes in integers" in event.fields.get("message", "") for event in heard)


def test_the_pinned_stage_gives_the_same_file_without_a_clock(data: Digits, model: Model) -> None:
    adds = {"stem": -2.0, "body": 3.0, "head": 1.0}
    found = apply(model, MEASURED, own(data, model, latency_ms=clock(adds)))
    assert found.pinned is not None
    pinned = dict(found.pinned)
    assert pinned.pop("use") == "quantize.static"
    params = StaticParams.model_validate(pinned)
    assert Need.LATENCY not in declared_needs(params)
    again = apply(model, params, own(data, model))
    assert emit(again.model, Target("onnxruntime")) == emit(found.model, Target("onnxruntime"))


def test_an_override_that_says_weights_decides_for_its_layer(data: Digits, model: Model) -> None:
    params = StaticParams(placement="measured", overrides=(StaticOverride(match="stem", weights="int8"),))
    found = apply(model, params, own(data, model, latency_ms=clock({"stem": -2.0, "body": -2.0})))
    assert "stem" not in floats(found.model)
    assert "body" in floats(found.model)


def test_the_clock_of_another_processor_decides_nothing(data: Digits, model: Model, default: OnnxModel) -> None:
    heard: list[Event] = []
    other = Target("onnxruntime", profile="arm64" if resolve_profile("auto", this_machine()) != "arm64" else "x86-vnni")
    run = context(data, model, target=other, events=Events(heard.append), latency_ms=clock({"stem": -2.0}))
    found = apply(model, MEASURED, run)
    assert "stem" not in found.facts["left_in_float"]
    assert other.profile in found.facts["placement"]["not_timed"]
    assert any(event.kind == "warning" and "no placement is timed" in event.fields["message"] for event in heard)


def test_a_runtime_that_is_not_installed_leaves_the_default(data: Digits, model: Model) -> None:
    def absent(_: Sequence[Model]) -> tuple[float, ...]:
        raise MissingDependencyError("the runtime", "a-package", "pip install a-package")

    found = apply(model, MEASURED, own(data, model, latency_ms=absent))
    assert "a-package" in found.facts["placement"]["not_timed"]
    assert found.facts["left_in_float"] == {}


def test_a_placement_that_the_runtime_does_not_run_is_none(data: Digits, model: Model) -> None:
    """It would be the fastest."""
    table = clock({"stem": -2.0, "body": -3.0})

    def latency_ms(models: Sequence[Model]) -> tuple[float, ...]:
        if any("body" in floats(each) for each in models):
            raise StageError("the runtime has no kernel for this")
        return table(models)

    found = apply(model, MEASURED, own(data, model, latency_ms=latency_ms))
    assert "stem" in floats(found.model)
    assert "body" not in floats(found.model)


def test_a_runtime_that_runs_nothing_ends_the_stage(data: Digits, model: Model) -> None:
    def latency_ms(_: Sequence[Model]) -> tuple[float, ...]:
        raise StageError("the runtime has no kernel for this")

    with pytest.raises(StageError, match="no kernel for this"):
        apply(model, MEASURED, own(data, model, latency_ms=latency_ms))


def test_without_a_clock_it_is_refused(data: Digits, model: Model) -> None:
    with pytest.raises(StageError, match="no latency to go by"):
        apply(model, MEASURED, own(data, model))


def test_mixed_widths_are_not_placed_twice() -> None:
    params = MixedParams(size=0.5, static=MEASURED)
    problems = list(params.problems(ModelFacts(Form.ONNX, Target("onnxruntime"))))
    assert [problem.path for problem in problems] == ["static.placement"]


def residual_blocks(seed: int) -> OnnxModel:
    """Two residual blocks on images of the digits' size, a matrix product behind them."""
    random = np.random.default_rng(seed)
    nodes, weights, last = [], {}, "image"
    channels = 1
    for block in range(2):
        names = [f"{block}.{part}" for part in ("a", "b")]
        for name, source, width in ((names[0], last, channels), (names[1], f"{names[0]}.out", 8)):
            weights[f"{name}.w"] = random.normal(0, 0.3, (8, width, 3, 3))
            nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [f"{name}.c"], name, pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [f"{name}.c"], [f"{name}.out"], f"{name}.relu"))
        nodes.append(helper.make_node("Add", [f"{names[0]}.out", f"{names[1]}.out"], [f"{block}.sum"], f"{block}.add"))
        last, channels = f"{block}.sum", 8
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    weights["head.w"] = random.normal(0, 0.3, (10, 8))
    nodes.append(helper.make_node("Gemm", ["flat", "head.w"], ["logits"], "head", transB=1))
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return made(as_model(body))


NODES = ("0.a", "0.b", "0.add", "1.a", "1.b", "1.add", "pool", "head")


@given(st.integers(0, 50), st.lists(st.sampled_from([-1.0, -0.3, 0.3, 1.0]), min_size=len(NODES), max_size=len(NODES)))
@settings(max_examples=8)
def test_placement_only_moves_layers_to_float_and_rounds_no_more(seed: int, costs: list[float]) -> None:
    """Whatever the clock says: no site that the default has not, a valid file, and outputs as near to the float ones."""
    data, network = digits(), residual_blocks(seed)
    plain = made(apply(network, StaticParams(), own(data, network)).model)
    adds = dict(zip(NODES, costs, strict=True))
    chosen = made(apply(network, MEASURED, own(data, network, latency_ms=clock(adds, 20.0))).model)
    target = Target("onnxruntime")
    before, after = ({site.node for site in active_sites(each, target)} for each in (plain, chosen))
    assert after <= before
    onnx.checker.check_model(emit(chosen, target), full_check=True)
    images = {"image": data.split("test").images[:64]}
    wanted, was, now = (open_model(each).run(images)["logits"] for each in (network, plain, chosen))
    scale = float(np.sqrt(np.mean(wanted**2)))
    rounding = float(np.sqrt(np.mean((was - wanted) ** 2))) / scale
    assert float(np.sqrt(np.mean((now - was) ** 2))) / scale <= 3 * rounding + 1e-6


def test_regions_know_what_stands_together_and_what_is_alike() -> None:
    data, network = digits(), residual_blocks(0)
    plain = made(apply(network, StaticParams(), own(data, network)).model)
    sites = active_sites(plain, Target("onnxruntime"))
    regions = find_regions(plain.body, sites, {})
    assert list(regions.units) == list(NODES)
    assert regions.parts(regions.everything) == [frozenset(NODES)]
    assert {"0.b", "1.b"} <= next(nodes for nodes in regions.kinds.values() if "0.b" in nodes)
    assert regions.closed({"1.a", "1.b"}) == {"0.add", "1.a", "1.b", "1.add", "pool"}
    assert regions.parts({"0.a", "1.a", "1.add"}) == [frozenset({"0.a"}), frozenset({"1.a", "1.add"})]
