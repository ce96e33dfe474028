"""Language models as bundles, opened by the tools that serve them: what they write is what the network writes."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

import compressctl.backends.openvino  # noqa: F401  before anything of OpenVINO's, which would report its use
from compressctl.cli.main import app

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
genai = pytest.importorskip("onnxruntime_genai")
openvino_genai = pytest.importorskip("openvino_genai")

from support.tiny_transformers import WORDS, language_model, saved, write_byte_pairs  # noqa: E402

from compressctl.sources.huggingface.text import served_text  # noqa: E402
from compressctl.sources.params import HuggingFaceParams  # noqa: E402

RECIPE = """
recipe: compressctl/v1
name: tiny
task: language-model
model: {source: huggingface, path: model}
data: {source: text, files: [text.txt], tokenizer: model, window: 32, calibration: 4, validation: 4, test: 6}
stages:
  - {use: quantize.weights, bits: 8, if_slower: keep}
export:
  - {backend: onnxruntime, bundle: genai}
  - {backend: openvino, bundle: genai}
budget: {bundle: {size: 5MB, perplexity_rise: 1000}}
"""
_TOKENS = 16


def _text(folder: Path) -> None:
    random = np.random.default_rng(0)
    (folder / "text.txt").write_text(" ".join(random.choice(WORDS, 900)))


def _apply(folder: Path, recipe: str, *options: str) -> tuple[int, str]:
    (folder / "r.yaml").write_text(recipe)
    arguments = ["apply", str(folder / "r.yaml"), "--output", str(folder / "run"), "--no-cache", *options]
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bundles")
    language_model(folder / "model")
    _text(folder)
    code, said = _apply(folder, RECIPE, "--measure", "untimed")
    assert code == 0, said
    return folder


def _greedy(folder: Path, prompt: list[int]) -> list[int]:
    """What transformers writes: each token the likeliest, but for those that end a text."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = list(prompt)
    for _ in range(_TOKENS):
        with torch.no_grad():
            logits = network(torch.tensor([tokens])).logits[0, -1]
        logits[1] = -torch.inf
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def _by_onnxruntime(bundle: Path, prompt: list[int]) -> list[int]:
    model = genai.Model(str(bundle))
    params = genai.GeneratorParams(model)
    length = len(prompt) + _TOKENS
    params.set_search_options(max_length=length, min_length=length)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]


def _by_openvino(bundle: Path, prompt: list[int]) -> list[int]:
    import openvino

    # Where the processor can, products would have 16 bits by default and inputs of quantized weights 8: random weights decide by less.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    pipeline = openvino_genai.LLMPipeline(str(bundle), "CPU", **exact)
    tokens = np.array([prompt], np.int64)
    given = openvino_genai.TokenizedInputs(openvino.Tensor(tokens), openvino.Tensor(np.ones_like(tokens)))
    found = pipeline.generate(given, max_new_tokens=_TOKENS, ignore_eos=True, do_sample=False)
    return [int(token) for token in found.tokens[0]]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_float_bundles_write_what_the_network_writes(run: Path, seed: int) -> None:
    prompt = np.random.default_rng(seed).integers(3, 300, 10).tolist()
    wanted = _greedy(run / "model", prompt)
    assert _by_onnxruntime(run / "run/artifacts/onnxruntime/baseline/genai", prompt) == wanted
    assert _by_openvino(run / "run/artifacts/openvino/baseline/genai", prompt) == wanted


def test_text_goes_in_and_comes_out(run: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    text = "the cat sat on a mat"
    found = genai.Tokenizer(genai.Model(str(run / "run/artifacts/onnxruntime/genai")))
    assert found.encode(text).tolist() == tokenizer.encode(text)
    assert found.decode(found.encode(text)) == text
    pipeline = openvino_genai.LLMPipeline(str(run / "run/artifacts/openvino/genai"), "CPU")
    assert pipeline.get_tokenizer().encode(text).input_ids.data[0].tolist() == tokenizer.encode(text)
    assert isinstance(pipeline.generate(text, max_new_tokens=4), str)


def test_products_of_16_bits_are_told_of(run: Path) -> None:
    """OpenVINO GenAI computes in what the processor has, unless its caller asks for more."""
    import openvino

    has_short = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name() != "f32"
    report = json.loads((run / "run/report.json").read_text())
    notes = {part["backend"]: part["bundle"]["notes"] for part in report["backends"]}
    assert any("INFERENCE_PRECISION_HINT=f32" in note for note in notes["openvino"]) == has_short
    assert not any("INFERENCE_PRECISION_HINT" in note for note in notes["onnxruntime"])


def test_writing_one_leaves_openvino_as_it_is(run: Path) -> None:
    """OpenVINO Tokenizers patches the classes below: what this process converted after that, others could not read."""
    import openvino

    assert [hasattr(part.__init__, "__wrapped__") for part in (openvino.Core, openvino.frontend.frontend.FrontEnd)] == [
        False,
        False,
    ]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_report_says_what_the_bundle_is(run: Path, backend: str) -> None:
    report = json.loads((run / "run/report.json").read_text())
    part = next(one for one in report["backends"] if one["backend"] == backend)
    bundle = part["bundle"]
    files = list((run / "run" / bundle["folder"]).iterdir())
    assert bundle["compressed"]["size_bytes"] == sum(file.stat().st_size for file in files)
    assert bundle["compressed"]["size_bytes"] < bundle["baseline"]["size_bytes"]
    # By the file with its cache, and by the plain file, over the same windows.
    assert bundle["baseline"]["perplexity"] == pytest.approx(part["baseline"]["score"]["value"], rel=1e-4)
    assert bundle["compressed"]["perplexity"] == pytest.approx(part["compressed"]["score"]["value"], rel=1e-2)
    assert bundle["compressed"]["tokens_per_second"] is None
    # Keys and values, 32 x 32, are in the queries' product: a measurement of their own would be of what is not in the file.
    assert not any(note.startswith("32 x 32 ") for note in bundle["notes"])
    assert 0 < bundle["divergence"] < 1
    windows, tokens = bundle["scored_texts"], bundle["compressed"]["scored_tokens"]
    assert tokens <= windows * (bundle["longest_text"] - 1)
    page = (run / "run/report.html").read_text()
    assert "As a bundle for" in page
    assert f"{tokens:,} tokens of {windows} texts of at most {bundle['longest_text']}, each read by itself." in page
    # A table that is the head too is one, whichever way its codes lie.
    assert part["compressed"]["parameters"] == part["baseline"]["parameters"]
    assert {check["name"]: check["holds"] for check in report["budget"]} == {
        "bundle.size": True,
        "bundle.perplexity_rise": True,
    }


def test_a_model_without_a_tokenizer_gets_no_bundle(tmp_path: Path) -> None:
    recipe = RECIPE.replace("{source: huggingface, path: model}", "{source: onnx, path: m.onnx}")
    code, said = _apply(tmp_path, recipe)
    assert code == 2
    assert "a bundle needs the model's tokenizer" in " ".join(said.split())


def test_a_limit_on_a_bundle_that_is_not_written_is_refused(tmp_path: Path) -> None:
    recipe = RECIPE.replace("{backend: onnxruntime, bundle: genai}", "onnxruntime")
    code, said = _apply(tmp_path, recipe)
    assert code == 2
    assert "budget.bundle" in said


def test_what_is_not_timed_cannot_be_bounded(tmp_path: Path) -> None:
    language_model(tmp_path / "model")
    _text(tmp_path)
    recipe = RECIPE.replace("size: 5MB", "tokens_per_second: 5, memory: 2GB")
    code, said = _apply(tmp_path, recipe, "--measure", "untimed")
    assert code == 2
    assert "budget.bundle.memory, budget.bundle.tokens_per_second limit what" in " ".join(said.split())


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("no tokenizer", "has no tokenizer.json"),
        ("no end", "does not say which token ends a text"),
        ("long windows", "data.window is 32 tokens, and a text of the bundle has 16 at most"),
    ],
)
def test_what_the_folder_lacks_is_said_before_any_work(tmp_path: Path, spoiled: str, said: str) -> None:
    model = language_model(tmp_path / "model", max_position_embeddings=16 if spoiled == "long windows" else 64)
    _text(tmp_path)
    if spoiled == "no tokenizer":
        (tmp_path / "words").mkdir()
        (model / "tokenizer.json").rename(tmp_path / "words" / "tokenizer.json")
    if spoiled == "no end":
        for name, key in (
            ("config", "eos_token_id"),
            ("generation_config", "eos_token_id"),
            ("tokenizer_config", "eos_token"),
        ):
            path = model / f"{name}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), key: None}))
    code, output = _apply(
        tmp_path, RECIPE.replace("tokenizer: model", "tokenizer: words") if spoiled == "no tokenizer" else RECIPE
    )
    assert code == 2
    assert said in " ".join(output.split())
    assert not (tmp_path / "run" / "artifacts").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gemma2", "Tanh stands between its products"),
        ("falcon", "its keys are not transposed by themselves"),  # once simplified, as the stage has it
    ],
)
def test_a_network_that_cannot_be_served_is_refused_before_any_stage(tmp_path: Path, name: str, said: str) -> None:
    saved(name, tmp_path / "model")
    write_byte_pairs(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": 1}))
    np.savez(tmp_path / "tokens.npz", inputs=np.random.default_rng(0).integers(3, 60, (24, 16)))
    data = "data: {source: npz, path: tokens.npz, labels: null, calibration: 4, validation: 4, test: 6}"
    recipe = "\n".join(data if line.startswith("data:") else line for line in RECIPE.splitlines())
    recipe = recipe.replace("path: model}", "path: model, inputs: [input_ids]}")
    code, output = _apply(tmp_path, recipe, "--measure", "untimed")
    assert code == 4, output
    assert " ".join(output.split()).count(said) >= 2
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {event["step"] for event in events if event["kind"] == "step.started"} == {"preflight"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [
        ["use: prune.layers, remove: 1", "use: quantize.weights, bits: 4, group_size: 32, method: gptq"],
        ["use: prune.channels, keep: 0.7", "use: distill.logits, epochs: 1, batch_size: 4"],
        ["use: prune.heads, keep: 0.5, scope: local", "use: factorize.svd, rank: {ratio: 0.5}, skip_slower: false"],
        ["use: finetune, epochs: 1, batch_size: 4, lora: {rank: 2}", "use: quantize.dynamic"],
    ],
    ids=lambda stages: "+".join(stage.split(",")[0].removeprefix("use: ") for stage in stages),
)
def test_bundles_write_what_the_compressed_network_writes(stages: list[str], tmp_path: Path) -> None:
    """Whatever stages made of it: the plain file beside them thinks each next token the likeliest, without a cache.

    Products keep their inputs in float in both: a clock chooses forms for each file by itself, and some round them to 8 bits inside.
    """
    torch.manual_seed(0)
    language_model(tmp_path / "model")
    _text(tmp_path)
    listed = "".join(f"  - {{{stage}, if_slower: keep}}\n" for stage in stages)
    recipe = re.sub(r"stages:\n.*\n", f"stages:\n{listed}", RECIPE).replace("size: 5MB, ", "")
    recipe = recipe.replace("onnxruntime, bundle: genai", "onnxruntime, bundle: genai, integer_activations: false")
    code, said = _apply(tmp_path, recipe.replace("window: 32,", "window: 32, train: 8,"), "--measure", "untimed")
    assert code == 0, said
    artifacts, prompt = tmp_path / "run" / "artifacts", list(range(10, 20))
    wanted = _by_whole_texts(artifacts / "onnxruntime" / "model.onnx", prompt)
    assert wanted != _greedy(tmp_path / "model", prompt) or stages[0].startswith("use: finetune")
    for backend, write in (("onnxruntime", _by_onnxruntime), ("openvino", _by_openvino)):
        written = write(artifacts / backend / "genai", prompt)
        assert _short_of_the_likeliest(artifacts / "onnxruntime" / "model.onnx", prompt, written) < 0.01, backend


def _by_whole_texts(file: Path, prompt: list[int]) -> list[int]:
    session, tokens = onnxruntime.InferenceSession(file), list(prompt)
    for _ in range(_TOKENS):
        tokens.append(int(_logits(session, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def _short_of_the_likeliest(file: Path, prompt: list[int], written: list[int]) -> float:
    """By how much a written token's logit misses the highest, at most: runtimes round differently, and two tokens may be as good as equal."""
    assert len(written) == _TOKENS
    before = _logits(onnxruntime.InferenceSession(file), prompt + written[:-1])[len(prompt) - 1 :]
    return float((before.max(-1) - before[np.arange(_TOKENS), written]).max())


def _logits(session: onnxruntime.InferenceSession, tokens: list[int]) -> np.ndarray:
    """(tokens, vocabulary)."""
    given = {"input_ids": np.array([tokens], np.int64), "attention_mask": np.ones((1, len(tokens)), np.int64)}
    return session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0][0]


def test_a_cache_without_a_bundle_is_refused(tmp_path: Path) -> None:
    code, output = _apply(
        tmp_path, RECIPE.replace("{backend: openvino, bundle: genai}", "{backend: openvino, kv_cache: int8}")
    )
    assert code == 2
    assert "add `bundle: genai`" in " ".join(output.split())


def test_texts_end_where_a_network_changes_its_tables_of_positions(tmp_path: Path) -> None:
    """Keys that are kept were turned by the first tables, which the whole text then would not have."""
    half = [1.0] * 8
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": half,
        "long_factor": [4.0] * 8,
        "factor": 4.0,
    }
    rope["original_max_position_embeddings"] = 16
    folder = language_model(tmp_path / "model", max_position_embeddings=64, rope_parameters=rope)
    text = served_text(HuggingFaceParams(path=str(folder)), tmp_path)
    assert text.context_length == 16
    assert "longrope" in text.notes[0]


@pytest.mark.slow
def test_tokens_a_second_and_memory_are_measured(tmp_path: Path) -> None:
    language_model(tmp_path / "model")
    _text(tmp_path)
    recipe = RECIPE.replace("  - {backend: openvino, bundle: genai}\n", "")
    recipe = recipe.replace("size: 5MB", "tokens_per_second: 1, first_token_ms: 60000, memory: 10GB")
    code, said = _apply(tmp_path, recipe, "--measure", "quick")
    assert code == 0, said
    found = json.loads((tmp_path / "run/report.json").read_text())["backends"][0]["bundle"]["compressed"]
    assert [one["prompt_tokens"] for one in found["first_token"]] == [16, 32]
    assert found["tokens_per_second"] > 1
    memory = found["memory"]
    assert memory["before_bytes"] < memory["load_peak_bytes"] <= memory["run_peak_bytes"]
    assert found["full_context_tokens"] == 64
