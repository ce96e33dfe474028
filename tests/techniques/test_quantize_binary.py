"""quantize.binary: exported weights have two or three values per channel, whatever BatchNorm folded into them."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from support.lessons import context, digits_data  # noqa: E402
from support.rounding import small_model  # noqa: E402
from support.shell import Shell  # noqa: E402

from compressctl.backends.onnxruntime import BACKEND  # noqa: E402
from compressctl.core.errors import NothingToCompressError, UsageError  # noqa: E402
from compressctl.core.events import Event, Events  # noqa: E402
from compressctl.core.model import Form, Model  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import StageResult  # noqa: E402
from compressctl.graph.codes import weight_codes, weight_values  # noqa: E402
from compressctl.graph.index import index  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.graph.simplify import simplify  # noqa: E402
from compressctl.techniques.quantize.binary import apply  # noqa: E402
from compressctl.techniques.quantize.params import BinaryParams, StaticParams  # noqa: E402
from compressctl.techniques.quantize.static import apply as static  # noqa: E402

BRISK = {"epochs": 3, "batch_size": 64, "learning_rate": 0.02}
INNER = ("left.weight", "right.weight", "last.weight")
PARAMS = {
    "binary": BinaryParams(teacher="original", **BRISK),
    "binary, straight-through": BinaryParams(estimator="straight-through", balance=False, freeze_bn_after=0.6, **BRISK),
    "ternary": BinaryParams(levels="ternary", **BRISK),
    "ternary, learned": BinaryParams(levels="ternary", threshold="learned", teacher="original", **BRISK),
}


@dataclass(frozen=True)
class Done:
    params: BinaryParams
    result: StageResult
    lowered: Model

    def weight(self, name: str) -> np.ndarray:
        found = index(self.lowered.body.graph).array(name)
        assert found is not None
        return found


@pytest.fixture(scope="module", params=PARAMS.values(), ids=PARAMS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    model = small_model()
    run, _ = context(tmp_path_factory.mktemp("done"), model)
    result = apply(model, request.param, run)
    lowered = lower(result.model)
    return Done(request.param, result, replace(lowered, body=simplify(lowered.body)))


def test_exported_weights_have_exactly_their_few_values(done: Done) -> None:
    """In the graph with BatchNorm folded, bit for bit: what packs them finds no third value of rounding."""
    is_binary = done.params.levels == "binary"
    for name in INNER:
        for channel in done.weight(name):
            values = np.unique(channel)
            assert len(values) == 2 if is_binary else len(values) <= 3
            assert values[0] == -values[-1] != 0
            assert is_binary or len(values) == 2 or values[1] == 0


def test_first_and_last_lie_on_a_grid_of_8_bits(done: Done) -> None:
    for name in ("stem.weight", "head.weight"):
        rows = done.weight(name).reshape(len(done.weight(name)), -1)
        codes = rows / np.abs(rows).max(1, keepdims=True) * 127
        assert np.allclose(codes, np.rint(codes), atol=1e-3)
        assert len(np.unique(np.rint(codes))) > 10


def test_it_learns(done: Done) -> None:
    facts = done.result.facts
    assert facts["validation_by_epoch"][-1] > max(75, facts["validation_before"])
    assert facts["layers"] == {done.params.levels: 3, "int8": 2, "float": 0}
    assert facts["weights"][done.params.levels] == 12 * 16 * 9 + 12 * 16 + 16 * 16 * 9
    assert done.result.model.form is Form.TORCH


def test_8_bit_activations_behind_it_round_no_weight(done: Done, tmp_path: Path) -> None:
    run, _ = context(tmp_path, small_model(), target=Target("onnxruntime", profile="x86-vnni"))
    found = static(done.lowered, StaticParams(), run).model
    for name, quant in found.quant.weights.items():
        assert np.allclose(weight_values(done.weight(name), quant), done.weight(name), rtol=1e-5, atol=1e-9)
        if name in INNER:
            assert set(np.unique(weight_codes(done.weight(name), quant))) <= {-127, 0, 127}


def test_a_packed_file_holds_them_in_their_bits(done: Done, tmp_path: Path) -> None:
    """Exact, and smaller by what floats take more than 1 or 2 bits, less scales and unpacking nodes, which weigh much for 4,224."""
    files = {}
    for storage in ("plain", "compressed"):
        (tmp_path / storage).mkdir()
        target = Target("onnxruntime", options={"storage": storage})
        files[storage] = BACKEND.build(done.lowered, target, tmp_path / storage).path
    images = next(digits_data().split("test").batches(50)).inputs["input"]
    plain, packed = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": images})[0]
        for path in files.values()
    )
    assert np.array_equal(plain, packed)
    bits = 1 if done.params.levels == "binary" else 2
    inner = sum(done.weight(name).size for name in INNER)
    saved = files["plain"].stat().st_size - files["compressed"].stat().st_size
    assert saved > 0.7 * inner * (32 - bits) / 8


def test_what_came_in_is_as_it_was_and_ends_and_exceptions_keep_their_weights(tmp_path: Path) -> None:
    model = small_model()
    before = copy.deepcopy(model.body.state_dict())
    run, _ = context(tmp_path, model)
    params = BinaryParams(first_and_last="float", exclude=("right",), **{**BRISK, "epochs": 1, "learning_rate": 1e-9})
    found = apply(model, params, run)
    assert found.facts["layers"] == {"binary": 2, "int8": 0, "float": 3}
    assert all(torch.equal(value, before[name]) for name, value in model.body.state_dict().items())
    after = found.model.body.state_dict()
    for name in ("stem.weight", "right.weight", "head.weight"):
        assert torch.allclose(after[name], before[name], atol=1e-6)
    assert not torch.allclose(after["left.weight"], before["left.weight"], atol=1e-3)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """What depends on the epoch, the estimator's curve and the frozen norms, is found again; learned scales are kept."""

    def trained(folder: Path | None, stop_at: float = 2) -> StageResult:
        def listen(event: Event) -> None:
            if event.kind == "step.progress" and event.fields["done"] >= stop_at * event.fields["total"]:
                raise KeyboardInterrupt

        model = small_model()
        run, _ = context(tmp_path, model, checkpoint=folder, events=Events(listen))
        params = BinaryParams(levels="ternary", threshold="learned", freeze_bn_after=0.3, **BRISK)
        return apply(model, params, run)

    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(KeyboardInterrupt):
        trained(kept, stop_at=2 / 3)
    resumed, whole = trained(kept), trained(None)
    theirs = whole.model.body.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.model.body.state_dict().items())
    assert resumed.facts["resumed_at_step"] > 0


def test_pruned_zeros_are_lost_in_words_and_kept_by_three_levels(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.body.left.weight[:, ::2] = 0
    pruned = replace(model, sparse=("left.weight",))
    run, warnings = context(tmp_path, model)
    brief = {**BRISK, "epochs": 1}
    apply(pruned, BinaryParams(**brief), run)
    assert "lose the zeros that pruning gave them" in warnings[0]
    found = apply(pruned, BinaryParams(levels="ternary", **brief), run).model.body.left.weight
    assert not found[:, ::2].any()
    assert len(warnings) == 1


def test_a_pattern_that_matches_nothing_names_what_there_is(tmp_path: Path) -> None:
    run, _ = context(tmp_path, small_model())
    with pytest.raises(UsageError, match="'nowhere' matches no layer"):
        apply(small_model(), BinaryParams(exclude=("nowhere",)), run)


def test_a_network_of_two_layers_has_none_to_make_binary(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    model = replace(small_model(), body=network.eval())
    run, _ = context(tmp_path, model)
    with pytest.raises(NothingToCompressError, match="no layer is left to make binary"):
        apply(model, BinaryParams(), run)


@pytest.mark.slow
def test_the_exported_file_scores_what_the_report_says(shell: Shell) -> None:
    shell.recipe(
        "recipe.yaml",
        """
  - {id: binary, use: quantize.binary, teacher: original, epochs: 3, batch_size: 64, learning_rate: 0.02}
  - {id: int8, use: quantize.static, if_slower: keep}
""",
    )
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    part = shell.report("out")["backends"][0]["compressed"]
    session = onnxruntime.InferenceSession(shell.folder / "out" / part["path"], providers=["CPUExecutionProvider"])
    batch = next(digits_data().split("test").batches(359))
    outputs = session.run(None, {session.get_inputs()[0].name: batch.inputs["input"]})[0]
    assert part["score"]["value"] == pytest.approx((outputs.argmax(1) == batch.labels).mean() * 100)
    assert part["score"]["value"] > 93
