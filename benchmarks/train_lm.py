"""Train a small Llama with grouped queries, and its tokenizer, on WikiText-2's validation file and Tiny Shakespeare, on two cores in under an hour.

python benchmarks/train_lm.py [--minutes 40]      writes build/lm, which transformers opens; run again after an interruption, it goes on

The first nine tenths of each text are learned, the last tenths choose which weights are kept, and WikiText-2's test file is read once, at the end.
The three texts lie beside the model (train.txt, valid.txt, test.txt) for recipes with `source: text`. A seed gives the same network again as long
as --minutes does not shorten the training, since the learning rate then follows the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

ROOT = Path(__file__).parent.parent
SPECIAL = BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 4096
CONTEXT = 256
TAKEN = CONTEXT - 1
"""Tokens of text in a window, which begins with <s>."""
STRIDE = 128
"""Of the windows that are reported: a token is predicted from 127 to 254 before it, but for those of the first window."""
BATCH = 4
EPOCHS = 10
ROUND = 250
"""Steps from one validation, and checkpoint, to the next."""
RATE, WARMUP, LAST_RATE = 1.5e-3, 0.03, 0.05
"""The highest learning rate, the share of the training in which it is reached, and what is left of it at the end."""
DROPOUT = 0.1
"""Of the embedding and of what each block adds."""
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "lm")
    parser.add_argument(
        "--minutes", type=float, default=40, help="of training at most; what is reported takes a few more"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="the folder with the texts; default: $COMPRESSCTL_DATA/text")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    figures = given.out / "figures.json"
    if not figures.exists():
        data = given.data or Path(os.environ["COMPRESSCTL_DATA"]) / "text"
        figures.write_text(json.dumps(_trained(given.out, data, given.seed, 60 * given.minutes), indent=1) + "\n")
    print(_table(json.loads(figures.read_text())))


def _trained(out: Path, data: Path, seed: int, limit_s: float) -> dict[str, float]:
    """Leave the network, its tokenizer and the texts in `out`; the figures of the weights that are kept."""
    texts = split(data)
    out.mkdir(parents=True, exist_ok=True)
    for name, parts in texts.items():
        (out / f"{name}.txt").write_text("".join(parts), "utf-8", newline="")
    tokenizer = _tokenizer(out, texts["train"])
    network = untrained(seed)
    progress = _train(network, tokenizer, texts, out, seed, limit_s)
    network = LlamaForCausalLM.from_pretrained(out)
    figures = {
        "parameters": network.num_parameters(),
        "tokens": progress.step * BATCH * TAKEN,
        "seconds": progress.elapsed_s,
    }
    for name in ("valid", "test"):
        text = "".join(texts[name])
        tokens = _tokens(tokenizer, [text])
        nats = negative_log_likelihood(network, tokens, STRIDE)
        figures[f"{name}_tokens"] = len(tokens)
        figures[f"{name}_bytes"] = len(text.encode())
        figures[f"{name}_perplexity"] = math.exp(nats / len(tokens))
        figures[f"{name}_bits_per_byte"] = nats / math.log(2) / len(text.encode())
    shutil.rmtree(_checkpoint(out).parent, ignore_errors=True)
    return figures


def _table(figures: dict[str, float]) -> str:
    rows = [
        f"| {name} | {figures[f'{key}_bytes']:,} | {figures[f'{key}_tokens']:,} | {figures[f'{key}_perplexity']:.2f} "
        f"| {figures[f'{key}_bits_per_byte']:.3f} |"
        for name, key in (("validation, which chose the weights", "valid"), ("WikiText-2 test", "test"))
    ]
    return "\n".join(
        [
            f"{figures['parameters']:,} parameters, {figures['tokens'] / 1e6:.1f} million tokens learned in {figures['seconds'] / 60:.0f} "
            f"minutes on {THREADS} threads. Windows of {CONTEXT} tokens with {BOS}, one each {STRIDE}.",
            "",
            "| text | bytes | tokens | perplexity per token | bits per byte |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def split(data: Path) -> dict[str, list[str]]:
    """train, valid and test, each a list of documents. Both texts are cut at nine tenths, or where a document or paragraph begins after it."""
    articles = re.split(r"(?m)(?<!\A \n)(?=^ = [^=])", _read(data / "wikitext2-valid.txt"))
    plays = re.split(r"(?<=\n\n)", _read(data / "tinyshakespeare.txt"))
    learned, validated = _nine_tenths(articles)
    learned_plays, validated_plays = _nine_tenths(plays)
    return {
        "train": [*learned, "".join(learned_plays)],
        "valid": [*validated, "".join(validated_plays)],
        "test": [_read(data / "wikitext2-test.txt")],
    }


def _read(path: Path) -> str:
    return path.read_bytes().decode()


def _nine_tenths(parts: list[str]) -> tuple[list[str], list[str]]:
    ends = np.cumsum([len(part) for part in parts])
    first = int(np.searchsorted(ends, 0.9 * ends[-1])) + 1
    return parts[:first], parts[first:]


def _tokenizer(out: Path, documents: list[str]) -> Tokenizer:
    """Byte-level BPE: no text is unknown to it. The one that lies in `out`, or a new one."""
    file = out / "tokenizer.json"
    if file.exists():
        return Tokenizer.from_file(str(file))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)
    return Tokenizer.from_file(str(file))


def _tokens(tokenizer: Tokenizer, documents: list[str]) -> Tensor:
    """(n,) of all of them, with </s> between two."""
    encoded = tokenizer.encode_batch(documents, add_special_tokens=False)
    ids = [number for one in encoded for number in (*one.ids, SPECIAL.index(EOS))]
    return torch.tensor(ids[:-1])


def untrained(seed: int) -> LlamaForCausalLM:
    """Two heads of keys and values serve eight of queries."""
    torch.manual_seed(seed)
    special = {
        f"{name}_token_id": SPECIAL.index(token) for name, token in zip(("bos", "eos", "pad"), SPECIAL, strict=True)
    }
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=688,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **special,
    )
    network = LlamaForCausalLM(config)
    network.generation_config = GenerationConfig(**special)
    return network


@dataclass
class _Progress:
    """best: the lowest validation loss yet, in nats per token."""

    seed: int
    step: int = 0
    elapsed_s: float = 0.0
    best: float = math.inf


def _train(
    network: LlamaForCausalLM, tokenizer: Tokenizer, texts: dict[str, list[str]], out: Path, seed: int, limit_s: float
) -> _Progress:
    """Leave the weights with the lowest validation loss in `out`."""
    tokens = _tokens(tokenizer, texts["train"])
    validated = _tokens(tokenizer, ["".join(texts["valid"])])
    steps = EPOCHS * _steps_per_epoch(tokens)
    optimizer = _optimizer(network)
    progress = _resumed(network, optimizer, out, seed)
    _add_dropout(network)
    _say(f"{len(tokens):,} tokens to learn, {steps:,} steps of {BATCH * TAKEN:,} at most, from step {progress.step}")
    started = time.monotonic() - progress.elapsed_s
    while (done := _share_done(progress.step, steps, progress.elapsed_s, limit_s)) < 1:
        torch.manual_seed(seed * steps + progress.step)  # so that dropout after a resumption is what it would have been
        network.train()
        losses = []
        for step in range(progress.step, min(progress.step + ROUND, steps)):
            done = _share_done(step, steps, time.monotonic() - started, limit_s)
            for group in optimizer.param_groups:
                group["lr"] = _rate(done)
            losses.append(_step(network, optimizer, _batch(tokens, seed, step)))
            progress.step = step + 1
            if done >= 1:
                break
        loss = negative_log_likelihood(network, validated, TAKEN) / len(validated)
        if loss < progress.best:
            progress.best = loss
            network.save_pretrained(out)
        progress.elapsed_s = time.monotonic() - started
        _save(network, optimizer, progress, out)
        _say(
            _line(
                progress,
                sum(losses) / len(losses),
                loss,
                _share_done(progress.step, steps, progress.elapsed_s, limit_s),
            )
        )
    return progress


def _steps_per_epoch(tokens: Tensor) -> int:
    return (len(tokens) // TAKEN - 1) // BATCH


def _share_done(step: int, steps: int, elapsed_s: float, limit_s: float) -> float:
    return max(step / steps, elapsed_s / limit_s)


def _rate(done: float) -> float:
    """A cosine after a linear warm-up."""
    if done < WARMUP:
        return RATE * max(done / WARMUP, 0.01)
    falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - WARMUP) / (1 - WARMUP)))
    return RATE * (LAST_RATE + (1 - LAST_RATE) * falling)


def _batch(tokens: Tensor, seed: int, step: int) -> Tensor:
    """(BATCH, CONTEXT): each epoch cuts the text elsewhere, and shuffles. A function of the step, so that a resumption goes on with the same."""
    epoch, place = divmod(step, _steps_per_epoch(tokens))
    rng = np.random.default_rng([seed, epoch])
    first = int(rng.integers(TAKEN))
    windows = tokens[first : first + (len(tokens) - first) // TAKEN * TAKEN].view(-1, TAKEN)
    order = rng.permutation(len(windows))
    return _begun(windows[torch.from_numpy(order[place * BATCH : (place + 1) * BATCH])])


def _begun(windows: Tensor) -> Tensor:
    return functional.pad(windows, (1, 0), value=SPECIAL.index(BOS))


def _step(network: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:
    logits = network(batch[:, :-1]).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Norms do not decay."""
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    norms = [weight for weight in network.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)


def _add_dropout(network: LlamaForCausalLM) -> None:
    """transformers' Llama has dropout in attention alone. Hooks leave no trace in what is saved."""

    def dropped(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return functional.dropout(output, DROPOUT, module.training)

    model = network.model
    for module in (
        model.embed_tokens,
        *(part for layer in model.layers for part in (layer.self_attn.o_proj, layer.mlp)),
    ):
        module.register_forward_hook(dropped)


@torch.no_grad()
def negative_log_likelihood(network: LlamaForCausalLM, tokens: Tensor, stride: int, batch: int = 16) -> float:
    """The sum over all tokens, in nats. Each is scored once, in the first window that holds it; the last window ends with the text."""
    network.eval()
    starts = torch.tensor([*range(0, len(tokens) - TAKEN, stride), len(tokens) - TAKEN])
    first_unscored = torch.cat([torch.zeros(1, dtype=torch.long), starts[:-1] + TAKEN])
    total = 0.0
    for begins, unscored in zip(starts.split(batch), first_unscored.split(batch), strict=True):
        places = begins[:, None] + torch.arange(TAKEN)
        windows = _begun(tokens[places])
        nats = functional.cross_entropy(
            network(windows[:, :-1]).logits.transpose(1, 2), windows[:, 1:], reduction="none"
        )
        total += nats[places >= unscored[:, None]].double().sum().item()
    return total


def _checkpoint(out: Path) -> Path:
    return out / "training" / "checkpoint.safetensors"


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, progress: _Progress, out: Path) -> None:
    """In one file, which takes the place of the one before only when it is whole."""
    arrays = {f"weight {place}": weight.detach() for place, weight in enumerate(network.parameters())}
    for place, state in optimizer.state_dict()["state"].items():
        arrays |= {f"{name} {place}": array for name, array in state.items()}
    file = _checkpoint(out)
    file.parent.mkdir(exist_ok=True)
    save_file(arrays, file.with_suffix(".part"), {"progress": json.dumps(asdict(progress))})
    file.with_suffix(".part").replace(file)


@torch.no_grad()
def _resumed(network: nn.Module, optimizer: torch.optim.Optimizer, out: Path, seed: int) -> _Progress:
    file = _checkpoint(out)
    if not file.exists():
        return _Progress(seed)
    states: dict[int, dict[str, Tensor]] = {}
    with safe_open(file, "pt") as saved:
        progress = _Progress(**json.loads(saved.metadata()["progress"]))
        if progress.seed != seed:
            sys.exit(f"{file} was begun with --seed {progress.seed}; give that one, or another --out")
        for name, place in (key.split() for key in saved.keys()):  # noqa: SIM118, not a mapping
            states.setdefault(int(place), {})[name] = saved.get_tensor(f"{name} {place}")
    for place, weight in enumerate(network.parameters()):
        weight.copy_(states[place].pop("weight"))
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def _line(progress: _Progress, learned: float, validated: float, done: float) -> str:
    left_s = progress.elapsed_s * (1 - min(done, 1.0)) / done
    kept = ", kept" if validated == progress.best else ""
    return (
        f"step {progress.step:,}: loss {learned:.3f}, validation {validated:.3f} (perplexity {math.exp(validated):.1f}){kept}; "
        f"{progress.elapsed_s / 60:.1f} minutes, {left_s / 60:.0f} left"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
