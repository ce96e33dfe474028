"""Every technique on four kinds of transformers that nobody here wrote: it works, or says why.

    python benchmarks/transformers_techniques.py [--network NAME ...] [--technique NAME ...] [--again]

A BERT classifier, a GPT-2, a Llama with grouped queries and a ViT are made from configs of transformers (random weights, width 128, two layers), written as folders,
and go through one recipe for each technique, untimed. What is written is opened in ONNX Runtime here and scored on the test split by numpy, beside the
report's score. Each recipe runs in a process forked from one that has imported the libraries, so that seconds are processor seconds of the
work itself. Results are kept one by one under results/transformers_techniques/. Exits with 1 where something crashed, took over a minute to refuse, or
scores otherwise than its report says.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "transformers_techniques"
BUILD = HERE.parent / "build" / "transformers_techniques"
_REFUSED = 60
"""Processor seconds, the most that a refusal may take."""
_APART = 1e-3
"""Between the report's score and the file's own, the most, as a share: sums in another order."""

STAGES = {
    "prune.channels": "{use: prune.channels, keep: 0.7}",
    "prune.heads": "{use: prune.heads, keep: 0.5}",
    "prune.layers": "{use: prune.layers, remove: 1}",
    "prune.unstructured": "{use: prune.unstructured, sparsity: 0.5}",
    "factorize.svd": "{use: factorize.svd, rank: 32}",
    "factorize.tucker": "{use: factorize.tucker}",
    "factorize.cp": "{use: factorize.cp}",
    "share.kmeans": "{use: share.kmeans, clusters: 16}",
    "distill.logits": "{use: prune.layers, remove: 1}, {use: distill.logits, epochs: 1}",
    "distill.features": "{use: prune.heads, keep: 0.5}, {use: distill.features, epochs: 1, layers: [LAYERS]}",
    "finetune": "{use: finetune, epochs: 1}",
    "quantize.static": "{use: quantize.static, if_slower: keep}",
    "quantize.dynamic": "{use: quantize.dynamic, if_slower: keep}",
    "quantize.weights": "{use: quantize.weights, bits: 4, group_size: 32, if_slower: keep}",
    "quantize.weights (GPTQ)": "{use: quantize.weights, bits: 4, group_size: 32, method: gptq, if_slower: keep}",
    "quantize.mixed": "{use: quantize.mixed, size: 0.2, if_slower: keep}",
    "quantize.qat": "{use: quantize.qat, epochs: 1, if_slower: keep}",
    "quantize.binary": "{use: quantize.binary, epochs: 1}",
    "cast": "{use: cast}",
    "unroll": "{use: unroll}",
    "replace.activations": "{use: replace.activations}",
    "search.supernet": "{use: search.supernet, epochs: 1}, {use: search.architecture, at_most: {macs: 0.6}, evaluations: 6, population: 3}",
    "search.architecture": "{use: search.architecture, at_most: {macs: 0.6}}",
    "search.architecture (tokens)": "{use: search.architecture, at_most: {macs: 0.6}, tokens: prune}",
    "search.replacements": "{use: search.replacements, at_most: {macs: 0.8}, steps: 10}",
    "dynamic.exits": "{use: dynamic.exits, epochs: 1}",
    "dynamic.blocks": "{use: dynamic.blocks, epochs: 1}",
    "dynamic.tokens": "{use: dynamic.tokens, at: every}",
    "dynamic.experts": "{use: dynamic.experts, if_slower: keep}",
    "dynamic.experts, 8 bits": "{use: dynamic.experts, if_slower: keep}, {use: quantize.dynamic, if_slower: keep}",
}
LAYERS = {
    "bert": "{teacher: bert.encoder.layer.1, student: bert.encoder.layer.1}",
    "gpt2": "{teacher: transformer.h.1, student: transformer.h.1}",
    "llama": "{teacher: model.layers.1, student: model.layers.1}",
    "vit": "{teacher: vit.layers.1, student: vit.layers.1}",
}
_DATA = """
import numpy as np


def make(kind):
    random = np.random.default_rng(0)
    if kind == "vit":
        return {"pixel_values": random.normal(size=(96, 3, 32, 32)).astype(np.float32)}, random.integers(0, 3, 96)
    tokens = random.integers(3, 199, (96, 24))
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    return inputs, random.integers(0, 3, 96) if kind == "bert" else tokens
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="*", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--technique", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--again", action="store_true", help="run what has a result already")
    asked = parser.parse_args()
    shutil.rmtree(BUILD / "cache", ignore_errors=True)
    os.environ["COMPRESSCTL_CACHE"] = str(BUILD / "cache")  # of the networks as graphs, which every recipe begins with
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in asked.network:
        _write(name, BUILD / name)
        for technique in asked.technique:
            _once(name, technique, asked.again)
    return _told()


def _write(name: str, folder: Path) -> None:
    import torch
    import transformers as t

    if (folder / "config.json").is_file():
        return
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    }
    text = {**sizes, "vocab_size": 200, "max_position_embeddings": 64}
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**text, num_labels=3)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                n_embd=128, n_layer=2, n_head=4, vocab_size=200, n_positions=64, bos_token_id=0, eos_token_id=0
            )
        ),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**text, num_key_value_heads=2)),
        "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3)),
    }
    made[name]().save_pretrained(folder)


def _once(name: str, technique: str, again: bool) -> None:
    path = RESULTS / name / f"{technique}.json"
    if path.is_file() and not again:
        return
    (BUILD / "data.py").write_text(_DATA)
    recipe, output = BUILD / f"{name}-{technique}.yaml", BUILD / "run"
    stages = STAGES[technique].replace("LAYERS", LAYERS[name])
    task = "language-model" if name in ("gpt2", "llama") else "classification"
    recipe.write_text(
        f"recipe: compressctl/v1\nname: tried\ntask: {task}\nmodel: {{source: huggingface, path: {name}}}\n"
        f'data: {{source: python, factory: "data.py:make", args: {{kind: {name}}}, calibration: 16, validation: 16, test: 16}}\n'
        f"target: {{threads: 1}}\nstages: [{stages}]\n"
    )
    shutil.rmtree(output, ignore_errors=True)
    began = _processor_seconds()
    code, said = _applied(recipe, output)
    result = {"network": name, "technique": technique, "code": code, "seconds": _processor_seconds() - began}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, **_seen(said, output), **_beside_report(recipe, output)}, indent=1))
    print(f"{name} {technique}: {code}, {result['seconds']:.0f} s", file=sys.stderr, flush=True)


def _applied(recipe: Path, output: Path) -> tuple[int, str]:
    """The exit code of `compressctl apply`, and what it wrote to stderr."""
    _import_once()
    errors = BUILD / "stderr"
    child = os.fork()
    if child == 0:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["compressctl", "apply", str(recipe), "--output", str(output), "--measure", "untimed"]
        code = 70
        try:
            runpy.run_module("compressctl", run_name="__main__", alter_sys=False)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), errors.read_text(errors="replace")


@cache
def _import_once() -> None:
    """What every run would import, the exporter's own parts by an export."""
    import onnxruntime  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import compressctl.pipeline.run  # noqa: F401

    torch.set_num_threads(1)
    torch.onnx.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), dynamo=True, verbose=False)


def _processor_seconds() -> float:
    """Of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seen(said: str, output: Path) -> dict[str, Any]:
    """smaller: times, of the file; said: why it was refused, or what was left as it was."""
    errors = [line for line in said.splitlines() if "error: " in line or "Traceback" in line]
    refused = errors[-1].partition("error: ")[2] or errors[-1] if errors else None
    report = output / "report.json"
    parts = json.loads(report.read_text())["backends"] if report.is_file() else []
    if not parts:
        return {"smaller": None, "said": refused or (said.strip().splitlines() or ["nothing"])[-1]}
    before, after = parts[0]["baseline"], parts[0]["compressed"]
    reasons = [why for stage in json.loads(report.read_text())["stages"] if (why := _no_gain(stage["facts"]))]
    return {"smaller": before["total_bytes"] / after["total_bytes"], "said": reasons[0] if reasons else ""}


def _no_gain(facts: dict[str, Any]) -> str:
    """Why a stage left the model as it was, or its file as large, in the stage's own words."""
    if facts.get("factorized") == 0:
        left = {layer["left_whole"]: layer["layer"] for layer in facts["layers"] if layer.get("left_whole")}
        return "left whole: " + "; ".join(f"{reason} ({layer}, ...)" for reason, layer in left.items())
    return str(facts.get("skipped") or facts.get("stored_as") or "").strip()


def _beside_report(recipe: Path, output: Path) -> dict[str, Any]:
    """The report's score of the file, and the file's own."""
    import numpy as np
    import onnxruntime

    from compressctl.api import load_recipe
    from compressctl.sources.load import load_dataset

    report = output / "report.json"
    parts = json.loads(report.read_text())["backends"] if report.is_file() else []
    if not parts:
        return {}
    loaded = load_recipe(recipe)
    assert loaded.data is not None
    session = onnxruntime.InferenceSession(output / parts[0]["compressed"]["path"], providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    hits, losses = [], []
    for batch in load_dataset(loaded.data, loaded.base, loaded.seed, loaded.task).split("test").batches(16):
        logits = session.run(None, {name: batch.inputs[name] for name in names})[0].astype(np.float64)
        labels = np.asarray(batch.labels)
        hits += (logits.argmax(-1) == labels).reshape(-1).tolist()
        if loaded.task == "language-model":
            logits, labels = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
            highest = logits.max(-1)
            total = highest + np.log(np.exp(logits - highest[:, None]).sum(-1))
            losses += (total - logits[np.arange(len(labels)), labels]).tolist()
    found = float(np.exp(np.mean(losses))) if losses else 100 * float(np.mean(hits))
    return {"reported": parts[0]["compressed"]["score"]["value"], "found": found}


def _told() -> int:
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/*.json"))]
    found = {(one["network"], one["technique"]): one for one in results}
    reasons: dict[str, str] = {}
    print(f"| | {' | '.join(LAYERS)} |\n|---|{'---|' * len(LAYERS)}")
    for technique in STAGES:
        cells = [_cell(found.get((name, technique)), reasons) for name in LAYERS]
        print(f"| `{technique}` | {' | '.join(cells)} |")
    print()
    for reason, mark in reasons.items():
        print(f"{mark}. {reason}")
    apart = [one for one in results if abs(one.get("found", 0) - one.get("reported", 0)) > _APART * one.get("found", 1)]
    late = [one for one in results if one["smaller"] is None and one["seconds"] > _REFUSED]
    crashed = [one for one in results if one["code"] not in (0, 1, 6) or "Traceback" in one["said"]]
    slowest = max((one["seconds"] for one in results if one["smaller"] is None), default=0.0)
    print(
        f"\n{len(results)} runs, {len(crashed)} crashed or were given a wrong recipe; the slowest refusal took {slowest:.0f} seconds of processors; "
        f"{len(apart)} of {sum('found' in one for one in results)} files score otherwise than their report says."
    )
    for one in [*crashed, *late, *apart]:
        print(f"{one['network']} {one['technique']}: {one}", file=sys.stderr)
    return int(bool(late or crashed or apart))


def _cell(result: dict[str, Any] | None, reasons: dict[str, str]) -> str:
    if result is None:
        return "not run"
    note = f" [{reasons.setdefault(result['said'], str(len(reasons) + 1))}]" if result["said"] else ""
    if result["smaller"] is None:
        return f"refused{note}"
    return f"{result['smaller']:.2f}x smaller{note}"


if __name__ == "__main__":
    sys.exit(main())
