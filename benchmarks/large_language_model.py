"""A language model of 1.1 B parameters, from its folder to a bundle: what whole commands take of memory and time.

python benchmarks/large_language_model.py [--layers 22] [--point rtn gptq] [--tokens 8192] [--folder build/large_lm]

The network is a Llama with grouped queries, as wide and deep as TinyLlama, with random weights in bfloat16 shards, made once. Its tokenizer and
the texts are those of train_lm.py, which must have run. Each point is `compressctl apply`, untimed; the whole bundle is written and opened.
Memory is anonymous and dirty, as memory.py counts it: of the process that compresses, and of all together, runtimes included. Linux alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from memory import watched
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parent.parent
LM = ROOT / "build" / "lm"
SHARD = 900_000_000
WINDOW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--point", nargs="+", choices=("rtn", "hqq", "gptq"), default=["rtn", "gptq"])
    parser.add_argument("--tokens", type=int, default=8192, help="of calibration")
    parser.add_argument("--lm", type=Path, default=LM, help="the folder that train_lm.py wrote")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "large_lm")
    given = parser.parse_args()
    folder, lm = given.folder.resolve(), given.lm.resolve()
    model = made(folder / f"model-{given.layers}", given.layers, lm)
    parameters = json.loads((model / "model.safetensors.index.json").read_text())["metadata"]["total_size"] // 2
    print(f"{parameters / 1e6:,.0f} M parameters, {4 * parameters / 1e9:.2f} GB in float32\n")
    print("| method | compressing process | all processes | bundle | minutes | exit |\n|---|---|---|---|---|---|")
    for method in given.point:
        recipe = written(folder / f"{method}-{given.layers}.json", model, method, given.tokens, lm)
        output = folder / f"run-{method}-{given.layers}"
        shutil.rmtree(output, ignore_errors=True)
        steps = Steps(output / "events.jsonl")
        command = ["apply", str(recipe), "--output", str(output), "--no-cache", "--measure", "untimed"]
        run = watched(command, recipe.parent, of_first=steps.seen)
        bundle = sum(path.stat().st_size for path in (output / "artifacts/onnxruntime/genai").glob("*"))
        print(
            f"| {method} | {run.own_bytes / 1e9:.2f} GB | {run.peak_bytes / 1e9:.2f} GB | {bundle / 1e6:,.0f} MB | {run.seconds / 60:.0f} "
            f"| {run.returncode} |",
            flush=True,
        )
        print(f"  compressing process, most by step: {steps}", flush=True)
        if run.returncode not in (0, 1):
            print(run.said)


class Steps:
    """The most that the command's first process held in each step, as the run's events name them, and of it what no file backs."""

    def __init__(self, events: Path) -> None:
        self._events, self._most, self._anonymous = events, dict[str, int](), dict[str, int]()

    def seen(self, held: int, anonymous: int) -> None:
        with suppress(OSError):
            lines = self._events.read_text().splitlines()[-400:]
            started = [json.loads(line)["step"] for line in lines if '"step.started"' in line]
            self._last = started[-1] if started else getattr(self, "_last", "before")
            self._most[self._last] = max(self._most.get(self._last, 0), held)
            self._anonymous[self._last] = max(self._anonymous.get(self._last, 0), anonymous)

    def __str__(self) -> str:
        return ", ".join(
            f"{step} {held / 1e9:.2f} GB ({self._anonymous[step] / 1e9:.2f} anonymous)"
            for step, held in self._most.items()
        )


def made(folder: Path, layers: int, like: Path) -> Path:
    """The network's folder, shard by shard, so that it is never in memory."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(config)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places |= dict.fromkeys(shard, name)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(like / file, folder / file)
    config.save_pretrained(folder)
    return folder


def _shards(config: LlamaConfig) -> Iterator[dict[str, Tensor]]:
    """Random weights: normal, of the size that training begins with; 1 in normalizations."""
    with torch.device("meta"):
        network = LlamaForCausalLM(config)
    random = torch.Generator().manual_seed(0)
    shard: dict[str, Tensor] = {}
    for name, like in network.named_parameters():
        values = torch.ones(like.shape) if "norm" in name else 0.02 * torch.randn(like.shape, generator=random)
        shard[name] = values.to(torch.bfloat16)
        if sum(tensor.nbytes for tensor in shard.values()) >= SHARD:
            yield shard
            shard = {}
    if shard:
        yield shard


def written(path: Path, model: Path, method: str, tokens: int, like: Path) -> Path:
    recipe = {
        "recipe": "compressctl/v1",
        "name": path.stem,
        "task": "language-model",
        "model": {"source": "huggingface", "path": str(model)},
        "data": {
            "source": "text",
            "files": [str(like / "valid.txt")],
            "test_files": [str(like / "test.txt")],
            "tokenizer": str(model),
            "window": WINDOW,
            "train": 1,
            "validation": 1,
            "test": 1,
            "calibration": max(tokens // WINDOW, 1),
        },
        "target": {"backend": "onnxruntime", "threads": 2, "batch_size": 1},
        "stages": [{"id": "weights", "use": "quantize.weights", "bits": 4, "group_size": 32, "symmetric": True, "method": method}],
        "export": [{"backend": "onnxruntime", "bundle": "genai"}],
    }  # fmt: skip
    path.write_text(json.dumps(recipe, indent=1))
    return path


if __name__ == "__main__":
    main()
