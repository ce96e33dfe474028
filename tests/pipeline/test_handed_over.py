"""A stage's cache key covers what the stage is handed, no less and no more; a stage reads nothing that it did not declare."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shell import Shell

pytest.importorskip("torch")

from compressctl.core.cache import Cache
from compressctl.core.errors import NothingToCompressError, StageError
from compressctl.core.events import Events
from compressctl.core.model import Form, Model
from compressctl.core.needs import FROM_DATA, MEASURED, SCORED, Need, Needs, TechniqueParams
from compressctl.core.registry import load as attribute
from compressctl.core.target import Target
from compressctl.core.technique import TechniqueSpec, techniques
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.handed_model import model_digest, refuse_change
from compressctl.pipeline.plan import _stage_key, make_plan
from compressctl.pipeline.stage_result import checked
from compressctl.pipeline.workspace import Workspace
from compressctl.recipe.loader import load
from compressctl.recipe.needs import stage_needs
from compressctl.recipe.schema import Recipe, Stage, TargetSection

NETWORK = '''
"""Convolutions with a block that can go, an attention whose heads can go, and a classifier."""
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    def forward(self, x):
        x = self.attention(x)
        return x + self.mlp(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.narrow = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU())
        self.block, self.attention, self.head = Block(), Attention(), nn.Linear(16, 10)
        self.blocks = nn.ModuleList([Tokens(), Tokens()])
    def forward(self, x):
        x = self.block(self.wide(self.narrow(self.stem(x))))
        x = self.attention(x.flatten(2).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))

def make():
    torch.manual_seed(0)
    return Net().eval()

def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
'''

TRAINED = "finetune: {epochs: 1}"
TAUGHT = "finetune: {epochs: 1, teacher: original, label_weight: 0}"
SMALL = "epochs: 1, student: {factory: 'net.py:small'}"

READS_DATA: Mapping[str, list[str]] = {
    "quantize.static": [
        "",
        "smoothquant_alpha: 0.5",
        "rounding: adaround, rounding_steps: 2",
        "gate: {accuracy_drop: 100}",
    ],
    "quantize.dynamic": ["smoothquant_alpha: 0.5", "gate: {accuracy_drop: 100}"],
    "quantize.mixed": [
        "size: 0.5",
        "size: 0.5, sensitivity: hessian, probes: 1",
        "speedup: 0.01, widths: [int8, float]",
        "bits_per_weight: 9, weights_only: {symmetric: true}",
        "size: 0.5, sensitivity: hessian, probes: 1, weights_only: {method: gptq}",
    ],
    "quantize.weights": [
        "method: gptq",
        "method: awq",
        "method: gptq, propagate_error: true",
        "overrides: [{match: MatMul, method: gptq}]",
        "method: gptq, symmetric: true",
        "gate: {accuracy_drop: 100}",
    ],
    "quantize.qat": ["epochs: 1", "epochs: 1, teacher: original, label_weight: 0"],
    "quantize.binary": ["epochs: 1", "epochs: 1, teacher: original"],
    "cast": ["gate: {accuracy_drop: 100}"],
    "unroll": ["lanes: 64"],
    "unfold": [""],
    "finetune": ["epochs: 1", "epochs: 1, mixup: 0.2, recalibrate_bn: true"],
    "prune.channels": [
        "",
        "criterion: taylor",
        "criterion: activation, bn_samples: 0",
        "criterion: hessian",
        f"bn_samples: 0, {TRAINED}",
        f"bn_samples: 0, {TAUGHT}",
        "bn_samples: 0, regularization: {epochs: 1}",
        "scope: measured",
    ],
    "prune.heads": ["", "gate: {accuracy_drop: 100}"],
    "prune.layers": ["", "criterion: latency", "bn_samples: 0"],
    "prune.unstructured": [
        "method: wanda",
        "method: sparsegpt",
        "recalibrate_bn: true",
        TRAINED,
        TAUGHT,
        "schedule: gradual, finetune: {epochs: 1}",
        "schedule: iterative, iterations: 2, finetune: {epochs: 1}",
    ],
    "factorize.svd": [
        "skip_slower: false",
        "whitening: false, skip_slower: false",
        "rank: {validation_drop: 50}, skip_slower: false",
        f"skip_slower: false, {TAUGHT}",
        "skip_slower: false, regularization: {epochs: 1}",
    ],
    "factorize.tucker": ["rank: 4, skip_slower: false"],
    "factorize.cp": ["rank: 4"],
    "share.kmeans": [
        "",
        "compensate: true",
        "importance: fisher, bias_correction: false",
        "importance: activation",
        "budget: {bits: 4}, bias_correction: false",
        TRAINED,
    ],
    "distill.logits": [SMALL, f"{SMALL}, label_weight: 0", "epochs: 1, data_free: random, data_free_samples: 64"],
    "distill.features": ["epochs: 1, method: contrastive", "epochs: 1, student: {width_multiplier: 0.5}"],
    "replace.activations": [],
    "dynamic.exits": ["epochs: 1", "epochs: 1, cost: macs", "epochs: 1, thresholds: [0.5, 0.5]"],
    "dynamic.blocks": ["epochs: 1", "epochs: 1, teacher: original, label_weight: 0"],
    "dynamic.tokens": [TRAINED, "latency: 0.95"],
    "dynamic.experts": ["experts: 2, chosen: 1", f"experts: 2, chosen: 1, {TRAINED}"],
    "search.supernet": ["epochs: 1", "epochs: 1, teacher: original, label_weight: 0"],
    "search.replacements": [
        "at_most: {macs: 0.6}, steps: 5",
        "at_most: {macs: 0.6}, steps: 5, criterion: outputs",
        f"at_most: {{parameters: 0.6}}, steps: 5, bn_samples: 0, {TAUGHT}",
    ],
    "search.architecture": [
        "at_most: {macs: 0.6}",
        "at_most: {macs: 0.6}, criterion: outputs",
        "at_most: {parameters: 0.6}, method: evolution, evaluations: 4, population: 2",
        f"at_most: {{macs: 0.6}}, bn_samples: 0, {TAUGHT}",
    ],
}
"""By technique, params with which its result depends on the recipe's data."""

READS_NO_DATA: Mapping[str, list[str]] = {
    "quantize.dynamic": ["", "embeddings: int4"],
    "quantize.weights": ["", "method: hqq", "bits: 8", "symmetric: true"],
    "cast": ["", "scope: weights"],
    "unroll": ["positions: {'*stem*': [2, 2]}"],
    "replace.activations": ["", "by: relu6"],
    "dynamic.tokens": ["", "method: merge"],
    "prune.channels": ["bn_samples: 0"],
    "prune.heads": ["criterion: l2", "criterion: random"],
    "prune.unstructured": ["", "method: lamp"],
    "share.kmeans": ["bias_correction: false", "budget: {bits: 4, sensitivity: error}, bias_correction: false"],
}

CASES = [(use, params) for use, every in READS_DATA.items() for params in every]
BARE = [(use, params) for use, every in READS_NO_DATA.items() for params in every]


def recipe(
    folder: Path, use: str, params: str, *, data: str = "source: digits, calibration: 64", task: str = ""
) -> Recipe:
    (folder / "net.py").write_text(NETWORK)
    path = folder / "recipe.yaml"
    path.write_text(f"""recipe: compressctl/v1
model: {{source: python, factory: "net.py:make", input_shape: [1, 8, 8]}}
{f"data: {{{data}}}" if data else ""}
{task}
stages:
  - {{id: it, use: {use}, if_slower: keep, {params}}}
""")
    return load(path)


def key(found: Recipe) -> str:
    return next(step.key for step in make_plan(found, None).steps if step.id == "it")  # type: ignore[return-value]


def test_every_technique_is_in_the_table() -> None:
    ours = {name for name in techniques.names() if not name.startswith("example.")}
    assert set(READS_DATA) == ours
    assert set(READS_NO_DATA) <= ours


@pytest.mark.parametrize(("use", "params"), CASES)
def test_the_key_follows_the_data(use: str, params: str, tmp_path: Path) -> None:
    """Its samples, how many there are in each split, and the seed that deals them."""

    def of(sizes: str, offset: float = 0.0, seed: int = 0) -> str:
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(64, 1, 8, 8)).astype(np.float32) + offset
        np.savez(tmp_path / "data.npz", inputs=inputs, labels=np.arange(64) % 10)
        return key(recipe(tmp_path, use, params, data=f"source: npz, path: data.npz, {sizes}", task=f"seed: {seed}"))

    first = of("calibration: 16")
    assert of("calibration: 16") == first
    others = [of("calibration: 8"), of("calibration: 16, validation: 8"), of("calibration: 16", 1.0)]
    assert len({first, *others, of("calibration: 16", seed=1)}) == 5


@pytest.mark.parametrize(("use", "params"), BARE)
def test_the_key_stays_when_data_change_that_nobody_reads(use: str, params: str, tmp_path: Path) -> None:
    first = key(recipe(tmp_path, use, params))
    assert key(recipe(tmp_path, use, params, data="source: digits, calibration: 8, validation: 0.2")) == first
    assert key(recipe(tmp_path, use, params, data="")) == first


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that keeps the network's graph."""
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@pytest.mark.parametrize(("use", "params"), [*CASES, *BARE])
def test_a_technique_reads_only_what_its_params_declare(use: str, params: str, tmp_path: Path, graphs: Cache) -> None:
    """Each runs with what the pipeline hands it, and leaves its model as it is: any other read raises."""
    pytest.importorskip("accelerate")
    found = recipe(tmp_path, use, params)
    executor = Executor(Workspace(found, make_plan(found, None), tmp_path / "out", graphs, Events()))
    (stage,), spec = found.stages, techniques.get(use)
    model: Model = executor.workspace.loaded() if Form.TORCH in spec.forms else executor.workspace.original_graph()
    before = model_digest(model)
    try:
        result = checked(attribute(spec.implementation)(model, stage.params, executor.context(stage, spec, None)))
    except NothingToCompressError:
        assert use == "unroll"  # whose clock finds nothing that is faster on this machine
        return
    except StageError:
        if "latency: 0.95" not in params:
            raise
        return  # so few tokens take no time beside the rest
    refuse_change(before, model)
    assert result.model.form is spec.gives_from(model.form)


ON_GRAPHS = [
    (use, params)
    for use, params in [*CASES, *BARE]
    if len(techniques.get(use).forms) > 1
    and not any(word in params for word in ("epochs", "fisher", "recalibrate_bn: true"))
]
"""Of techniques that take both forms, what graphs can be told: nothing that trains."""


@pytest.mark.slow
@pytest.mark.parametrize(("use", "params"), ON_GRAPHS)
def test_a_technique_that_takes_graphs_too_reads_no_more_of_them(
    use: str, params: str, tmp_path: Path, graphs: Cache
) -> None:
    found = recipe(tmp_path, use, params)
    executor = Executor(Workspace(found, make_plan(found, None), tmp_path / "out", graphs, Events()))
    (stage,), spec = found.stages, techniques.get(use)
    graph = executor.workspace.original_graph()
    result = checked(attribute(spec.implementation)(graph, stage.params, executor.context(stage, spec, None)))
    assert result.model.form is Form.ONNX


class Asking(TechniqueParams):
    """What a technique of another package might declare."""

    wants: frozenset[Need] = frozenset()

    def needs(self) -> Needs:
        return Needs(reads=self.wants)


ASKING = TechniqueSpec("example.asking", 1, "an example", Asking, Form.ONNX, Form.ONNX, "nowhere:apply")
CHANGES: Mapping[str, tuple[dict[str, Any], frozenset[Need]]] = {
    "data": ({"data_key": "other"}, FROM_DATA | SCORED),
    "task": ({"task": "custom"}, SCORED | {Need.TASK}),
    "metric": ({"metric": "r2"}, SCORED),
    "profile": ({"target": {"profile": "arm64"}}, MEASURED | {Need.TARGET}),
    "threads": ({"target": {"threads": 7}}, MEASURED),
    "batch": ({"target": {"batch_size": 7}}, MEASURED),
    "options": ({"target": {"options": {"precision": "float16"}}}, MEASURED),
    "watts": ({"target": {"watts_per_core": 9.0}}, frozenset()),
}
"""What may change, and the needs whose stages are run again then."""


@given(st.sets(st.sampled_from(list(Need))), st.sampled_from(sorted(CHANGES)))
def test_the_key_changes_with_what_is_handed_over_and_with_nothing_else(wants: set[Need], change: str) -> None:
    plain = Recipe(
        "it",
        0,
        "classification",
        None,
        None,  # type: ignore[arg-type]
        None,
        TargetSection(),  # type: ignore[call-arg]
        (),
        (),
        None,  # type: ignore[arg-type]
        Path(),
        {},
    )
    stage = Stage("it", ASKING.name, Asking(wants=frozenset(wants)))
    new, decided_by = CHANGES[change]
    target, words = new.get("target", {}), {name: value for name, value in new.items() if name in ("task", "metric")}
    before = _stage_key(plain, stage, ASKING, "model", "data", Target("onnxruntime"))
    changed = replace(plain, **words)
    data, other = new.get("data_key", "data"), replace(Target("onnxruntime"), **target)
    assert (_stage_key(changed, stage, ASKING, "model", data, other) != before) == bool(wants & decided_by)


def test_a_gate_that_bisects_is_handed_what_it_takes(tmp_path: Path) -> None:
    gated = recipe(tmp_path, "quantize.weights", "gate: {accuracy_drop: 1}").stages[0]
    stopped = recipe(tmp_path, "quantize.weights", "gate: {accuracy_drop: 1, otherwise: stop}").stages[0]
    spec = techniques.get("quantize.weights")
    assert stage_needs(gated, spec).all == {Need.CALIBRATION_DATA, Need.SESSION}
    assert stage_needs(stopped, spec).all == set()


# End to end

GRAPH = """recipe: compressctl/v1
model: {source: builtin, name: digits-depthwise}
data: {source: digits, calibration: 300}
stages:
  - {id: w, use: quantize.weights, method: gptq, bits: 3}
"""


@pytest.mark.slow
def test_another_calibration_split_gives_other_weights_and_no_stale_ones(shell: Shell) -> None:
    (shell.folder / "gptq.yaml").write_text(GRAPH)

    def run(output: str, *more: str) -> tuple[Any, Any]:
        done = shell.run("apply", "gptq.yaml", "--output", output, *more)
        assert done.code == 0, done.err
        stage = next(stage for stage in shell.report(output)["stages"] if stage["id"] == "w")
        return stage["facts"]["layers"], stage["cached"]

    many, _ = run("many")
    few, was_cached = run("few", "--set", "data.calibration=32")
    assert not was_cached
    assert many != few
    assert run("again", "--set", "data.calibration=32") == (few, True)
    bare = shell.run("apply", "gptq.yaml", "--output", "bare", "--unset", "data")
    assert bare.code == 2
    assert "needs calibration data for `method: gptq`" in bare.err
    assert "leave `method` out" in bare.err


@pytest.mark.slow
def test_a_technique_that_forgot_a_declaration_fails_by_name(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("peek.yaml", "  - {use: example.peek, id: peek}"), "--output", "out")
    assert done.code != 0
    assert "example.peek reads run.data, which its params do not declare: add Need.CALIBRATION_DATA" in done.err
    assert "Traceback" not in done.err
    declared = shell.recipe("seen.yaml", "  - {use: example.seen, id: seen}")
    assert shell.run("apply", declared, "--output", "seen").code == 0
    (stage,) = (stage for stage in shell.report("seen")["stages"] if stage["id"] == "seen")
    assert stage["facts"]["samples"] == 100
    plan = [
        json.loads(shell.run("plan", declared, "--json", *more).out)["steps"]
        for more in ((), ("--set", "data.calibration=50"))
    ]
    assert [[step["cached"] for step in steps if step["id"] == "seen"] for steps in plan] == [[True], [False]]
