"""What exits say on the validation split, how sure they are of it, and what a sample costs that leaves there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.graph.torch_outputs import named_outputs
from compressctl.sources.modules.early_exits import NEVER, EarlyExits
from compressctl.sources.modules.exit_heads import ConvHead, PooledHead
from compressctl.techniques.dynamic._heads import head_macs
from compressctl.techniques.dynamic._places import Place
from compressctl.techniques.dynamic._thresholds import Answers, temperature
from compressctl.techniques.dynamic.params import ExitsParams
from compressctl.training.data import tensor_batches
from compressctl.training.logits import as_logits

_BATCH = 256


def answers_of(
    learner: TorchModel, chosen: Sequence[Place], params: ExitsParams, run: RunContext
) -> tuple[Answers, list[float], dict[str, Any]]:
    """What the exits say on the validation split, as sure as they are right; their scores are divided by a temperature for that."""
    network = learner.body
    assert isinstance(network, EarlyExits)
    scores, final, labels = _scores(learner, run)
    if network.confidence == "learned":
        wanted, by = final, "the cosine with the network's own vectors"
    elif labels is None:
        wanted, by = _own_answers(final, network.confidence), "answers that are the network's own"
    else:
        wanted, by = labels, "labels"
    temperatures = [_calibrated(network, place, one, wanted) for place, one in enumerate(scores)]
    scores = [one / temperature for one, temperature in zip(scores, temperatures, strict=True)]
    sure = np.concatenate([network.sureness(torch.from_numpy(one)).numpy() for one in scores], 1)
    answers = (
        [network.as_output(torch.from_numpy(one)).numpy() for one in scores]
        if network.confidence == "learned"
        else scores
    )
    right = np.stack([_right(one, wanted, network.confidence) for one in [*answers, final]], 1)
    cost, unit = _costs(learner, chosen, params, run)
    facts = {
        "judged_by": by,
        "samples": len(final),
        "temperatures": [round(one, 3) for one in temperatures],
        "right_alone": [round(100 * float(one), 2) for one in right.mean(0)],
        f"cost_{unit}": [round(float(one), 5) for one in cost],
    }
    return Answers(sure, right, cost), temperatures, facts


def _scores(learner: TorchModel, run: RunContext) -> tuple[list[np.ndarray], np.ndarray, np.ndarray | None]:
    """Scores by exit, the network's own logits or vectors, and labels."""
    network = learner.body
    assert isinstance(network, EarlyExits)
    assert run.data is not None
    said: list[list[Tensor]] = []
    labels: list[np.ndarray] | None = []
    with torch.no_grad():
        for batch in tensor_batches(run.data.split("validation"), learner.signature, _BATCH):
            given, scores = network.every(*batch.inputs)
            final = next(iter(named_outputs(given).values()))
            said.append([*scores, final if network.confidence == "learned" else as_logits(final)])
            labels = None if labels is None or not isinstance(batch.labels, Tensor) else [*labels, batch.labels.numpy()]
    if not said:
        raise UsageError("the validation split is empty", hint="set data.validation: thresholds are chosen on it")
    *by_exit, last = [torch.cat(parts).float().numpy() for parts in zip(*said, strict=True)]
    return by_exit, last, np.concatenate(labels) if labels else None


def _own_answers(final: np.ndarray, confidence: str) -> np.ndarray:
    return np.asarray(final.argmax(-1) if confidence == "softmax" else final > 0)


def _calibrated(network: EarlyExits, place: int, scores: np.ndarray, wanted: np.ndarray) -> float:
    """The head's temperature, which becomes part of its weights."""
    if network.confidence != "softmax" or wanted.ndim != 1:
        return 1.0
    found = temperature(scores, wanted.astype(np.int64))
    cool(network, place, found)
    return found


def cool(network: EarlyExits, place: int, heat: float) -> None:
    head = network.heads[place]
    assert isinstance(head, PooledHead | ConvHead)
    with torch.no_grad():
        head.linear.weight.div_(heat)
        head.linear.bias.div_(heat)


def _right(scores: np.ndarray, wanted: np.ndarray, confidence: str) -> np.ndarray:
    """(n,): 1 where the answer is right, of several labels the share that is, of vectors the cosine."""
    if confidence == "learned":
        lengths = np.linalg.norm(scores, axis=-1) * np.linalg.norm(wanted, axis=-1)
        return np.asarray((scores * wanted).sum(-1) / np.maximum(lengths, 1e-12), np.float64)
    if confidence == "softmax":
        answer = scores.argmax(-1)
        return np.asarray(answer == (wanted if wanted.ndim == 1 else wanted.argmax(-1)), np.float64)
    return np.asarray(((scores > 0) == (wanted.reshape(scores.shape) > 0)).mean(-1), np.float64)


def _costs(
    learner: TorchModel, chosen: Sequence[Place], params: ExitsParams, run: RunContext
) -> tuple[np.ndarray, str]:
    """Of a sample by the exit that it leaves at, the whole network's last, and their unit."""
    if params.cost == "macs" or run.latency_ms is None:
        assert isinstance(learner.body, EarlyExits)
        heads = np.cumsum([head_macs(place, learner.body.width) / place.whole for place in chosen])
        shares = np.array([*(place.share for place in chosen), 1.0])
        return shares + np.append(heads, heads[-1]), "macs"
    forced = [_leaving_at(learner, exit_) for exit_ in range(len(chosen) + 1)]
    return np.array(run.latency_ms(forced)), "ms"


def _leaving_at(learner: TorchModel, exit_: int) -> TorchModel:
    """The same network where every sample leaves at one exit."""
    network = copy.deepcopy(learner.body)
    assert isinstance(network, EarlyExits)
    set_thresholds(network, [-1.0 if place == exit_ else NEVER for place in range(len(network.places))])
    return replace(learner, body=network)


def set_thresholds(network: EarlyExits, thresholds: Sequence[float]) -> None:
    with torch.no_grad():
        network.thresholds.copy_(torch.tensor(thresholds))
