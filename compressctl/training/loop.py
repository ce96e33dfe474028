"""The loop that fine-tuning, distillation and quantization-aware training share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compressctl.core.data import Split, tuples_of
from compressctl.core.errors import StageError, TimeIsUpError, UsageError
from compressctl.core.model import Signature, TorchModel
from compressctl.core.technique import RunContext
from compressctl.training.augment import augment_batch, mixup
from compressctl.training.batchnorm_recalibration import recalibrate_bn
from compressctl.training.checkpoint import read_checkpoint, weights_digest, write_checkpoint
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.hooks import Hook, SparsityMask, StepInfo
from compressctl.training.in_memory import hold
from compressctl.training.mixed_precision import autocast, computes_in_16_bits, warn_where_slower
from compressctl.training.moving_average import MovingAverage
from compressctl.training.objective import Objective
from compressctl.training.optimizers import make_optimizer, set_step
from compressctl.training.other_outputs import HoldingOutputs, OtherOutputs, other_outputs
from compressctl.training.other_outputs import facts as other_facts
from compressctl.training.params import TrainingParams
from compressctl.training.preflight import check_batch_size, check_training_labels
from compressctl.training.processes import Processes, join
from compressctl.training.state import Position, TrainingState, fill, pack, snapshot, unpack
from compressctl.training.supervision.teacher import CachedTeacher
from compressctl.training.validation import Validation, validation_of

CHECKPOINT_SECONDS = 60.0
_PROGRESS_SECONDS = 0.5
_CHECKPOINT = "training.safetensors"


@dataclass(frozen=True)
class Trained:
    """network: in eval mode on the CPU. facts: ready for JSON: loss and score per epoch, the kept epoch, seconds."""

    network: nn.Module
    facts: Mapping[str, Any] = field(default_factory=dict)


def train(
    model: TorchModel,
    objective: Objective,
    params: TrainingParams,
    run: RunContext,
    hooks: Sequence[Hook] = (),
    *,
    teacher: CachedTeacher | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Trained:
    """Train model.body in place: give it a copy. Zeros of `model.sparse` stay.

    objective: of the first output. Where there are more, each is held to the teacher's, or to the original model's where that
    has no such output, with weight params.other_outputs_weight; what cannot be held is named in a warning and in the facts.

    The same seed gives the same weights on the same machine. With run.checkpoint the state is kept there at the end of each
    epoch, and every checkpoint_seconds within one; the same call in a new process goes on where the last one was, to the
    same bits. A stage that trains several times gives each training a part of the run (`RunContext.part`).
    Where run.processes is not 1 all processes must make the same call; each batch is shared out among them.
    Raises UsageError without training samples, StageError when the loss is no number.
    """
    job = _begin(model, objective, params, run, hooks, teacher, checkpoint_seconds)
    position = job.state.position
    if not position.is_finished:
        _look_at_precision(job)
        _score_the_start(job)
        while position.epoch < params.epochs and not _is_over(position, params):
            _train_epoch(job)
            _end_epoch(job)
            _save(job)
            _tell(job, always=True)
        _settle(job)
        position.is_finished = True
        _save(job)
    network = job.state.network
    network.zero_grad(set_to_none=True)
    network.to("cpu")
    if job.is_channels_last:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Trained(network.eval(), _facts(job))


@dataclass
class _Job:
    """One call of train. steps: optimizer steps in all. file: its checkpoint, for the training that starts from the weights
    with the digest `start`. resumed: the steps that were found there."""

    state: TrainingState
    objective: Objective
    params: TrainingParams
    run: RunContext
    signature: Signature
    split: Split
    processes: Processes
    validation: Validation | None
    steps: int
    is_channels_last: bool
    file: Path | None
    start: str
    checkpoint_seconds: float
    others: OtherOutputs | None
    is_in_16_bits: bool
    resumed: int = 0
    started: float = field(default_factory=time.perf_counter)
    told: float = 0.0
    saved: float = field(default_factory=time.perf_counter)


def _begin(
    model: TorchModel,
    objective: Objective,
    params: TrainingParams,
    run: RunContext,
    hooks: Sequence[Hook],
    teacher: CachedTeacher | None,
    checkpoint_seconds: float,
) -> _Job:
    split = run.data.split("train") if run.data is not None else None
    if split is None or len(split) == 0:
        raise UsageError("training needs samples, and the train split is empty", hint="leave some samples in the data")
    check_training_labels(model, run)
    check_batch_size(params, split, run)
    others = other_outputs(model, params, run, teacher)
    if others is not None:
        others.tell(run.events)
    network: nn.Module = model.body
    is_channels_last = _reads_images(network, model.signature)
    file = None if run.checkpoint is None else run.checkpoint / _CHECKPOINT
    start = "" if file is None else weights_digest(network)
    processes = join(run.processes)
    network.to(processes.device)
    if is_channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    own = objective.to(processes.device) if isinstance(objective, nn.Module) else None
    optimizer = make_optimizer([network, *([own] if own is not None else [])], params)
    average = MovingAverage(network, params.ema_decay) if params.ema_decay is not None else None
    if others is not None and others.held:
        objective = HoldingOutputs(objective, others)
    everything = [SparsityMask(network, model.sparse), *hooks]
    job = _Job(
        TrainingState(network, own, optimizer, everything, average),
        objective,
        params,
        run,
        model.signature,
        hold(split),
        processes,
        validation_of(run, model.signature, objective, params.batch_size, is_channels_last=is_channels_last),
        params.epochs * math.ceil(len(split) / tuples_of(split).whole(params.batch_size)),
        is_channels_last,
        file,
        start,
        checkpoint_seconds,
        others,
        computes_in_16_bits(params, processes, run.events),
    )
    _resume(job)
    return job


def _reads_images(network: nn.Module, signature: Signature) -> bool:
    """Whether channels last is worth it: a ResNet-20 trains 1.2 to 1.5 times faster so on a CPU, and tensor cores want it."""
    return any(len(spec.shape) == 4 for spec in signature.inputs) and any(
        isinstance(module, nn.Conv2d) for module in network.modules()
    )


def _resume(job: _Job) -> None:
    job.processes.wait()
    found = read_checkpoint(job.file) if job.file is not None else None
    if found is not None and found[1].pop("start") != job.start:
        found = None  # what came before the training turned out otherwise this time
    steps = job.processes.gather([found[1]["step"] if found else None])
    job.processes.wait()
    if found is None or len(set(steps)) > 1:
        return
    unpack(job.state, found[0])
    job.state.position = Position(**found[1])
    job.resumed = job.state.position.step
    if job.resumed and not job.state.position.is_finished:
        job.run.events.emit("note", message=f"training goes on after step {job.resumed} of {job.steps}")


def _save(job: _Job) -> None:
    """Written by the first process alone: all hold the same."""
    position = job.state.position
    now = time.perf_counter()
    position.seconds, job.started, job.saved = position.seconds + now - job.started, now, now
    if job.file is not None and job.processes.is_main:
        facts = {**asdict(position), "start": job.start}
        if not job.run.keep(_CHECKPOINT, lambda path: write_checkpoint(path, pack(job.state), facts)):
            job.file = None


def _look_at_precision(job: _Job) -> None:
    """Before the first step of a process that trains alone."""
    if job.is_in_16_bits and not job.resumed and job.processes.count == 1:
        batch = next(iter(tensor_batches(job.split, job.signature, job.params.batch_size, shuffle_seed=job.run.seed)))
        inputs = batch.to(job.processes.device, is_channels_last=job.is_channels_last).inputs
        warn_where_slower(job.state.network, inputs, job.steps, job.run.events)


def _score_the_start(job: _Job) -> None:
    """The start counts as an epoch that may turn out to be the best one."""
    position = job.state.position
    if job.validation is None or position.before is not None or position.step:
        return
    position.before = job.validation.score(job.state.network, job.processes)
    _keep_if_best(job, position.before, 0, StepInfo(-1, job.steps, 0))


def _is_over(position: Position, params: TrainingParams) -> bool:
    return params.patience is not None and position.stale >= params.patience


def _train_epoch(job: _Job) -> None:
    position, network = job.state.position, job.state.network
    network.train()
    _call(job.state.hooks, "before_epoch", network, StepInfo(position.step, job.steps, position.epoch))
    if position.batch == 0:
        position.total, position.count = 0.0, 0
        torch.manual_seed(_seed(job.run.seed, position.epoch, job.processes.index))
    with job.processes.shared_norms(network):
        for batch in _batches(job):
            _step(job, batch)
            is_alone = job.processes.count == 1
            if is_alone and time.perf_counter() - job.saved > job.checkpoint_seconds:
                _save(job)
            try:
                _tell(job)
            except TimeIsUpError:
                if is_alone:
                    _save(job)
                raise


def _batches(job: _Job) -> Iterator[TensorBatch]:
    """What is left of the epoch, changed at random: each batch by a generator of its own, so that none depends on the last."""
    position, params, seed = job.state.position, job.params, job.run.seed
    batches = tensor_batches(job.split, job.signature, params.batch_size, shuffle_seed=seed + position.epoch)
    for number, batch in enumerate(batches):
        if number < position.batch:
            continue
        generator = np.random.default_rng([seed, position.epoch, number])
        if params.augment.is_on:
            batch = augment_batch(batch, params.augment, generator)
        if params.mixup:
            batch = mixup(batch, params.mixup, job.run.task, job.signature, generator)
        yield batch


def _step(job: _Job, batch: TensorBatch) -> None:
    state, params, processes = job.state, job.params, job.processes
    network, optimizer, position = state.network, state.optimizer, state.position
    own, share = processes.part(batch)
    with autocast(processes.device, in_16_bits=job.is_in_16_bits):
        loss = job.objective(network, own.to(processes.device, is_channels_last=job.is_channels_last)) * share
    value = processes.sum(loss.detach()).item()
    if not math.isfinite(value):
        raise StageError(f"the loss became {value} in epoch {position.epoch + 1}", hint="lower learning_rate")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    processes.sum_gradients(trained)
    moment = StepInfo(position.step, job.steps, position.epoch)
    _call(state.hooks, "before_step", network, moment)
    if params.clip_norm is not None:
        nn.utils.clip_grad_norm_(trained, params.clip_norm)
    set_step(optimizer, position.step, job.steps, params)
    optimizer.step()
    _call(state.hooks, "after_step", network, moment)
    if state.average is not None:
        state.average.update(network, position.step)
    position.step, position.batch = position.step + 1, position.batch + 1
    position.total, position.count = position.total + value * len(batch), position.count + len(batch)


def _end_epoch(job: _Job) -> None:
    state, position = job.state, job.state.position
    moment = StepInfo(position.step - 1, job.steps, position.epoch)
    _call(state.hooks, "after_epoch", state.network, moment)
    position.losses.append(position.total / position.count)
    position.epoch, position.batch = position.epoch + 1, 0
    if job.validation is not None:
        if state.average is not None:
            with state.average.applied(state.network):
                _score(job, moment)
        else:
            _score(job, moment)


def _score(job: _Job, moment: StepInfo) -> None:
    assert job.validation is not None
    _impose(job)
    score = job.validation.score(job.state.network, job.processes)
    job.state.position.scores.append(score)
    _keep_if_best(job, score, job.state.position.epoch, moment)


def _impose(job: _Job) -> None:
    """What weights must go through before they are used: hooks' constraints on an average, and fresh statistics."""
    if job.state.average is not None:
        for hook in job.state.hooks:
            hook.hold(job.state.network)
    if job.params.recalibrate_bn:
        recalibrate_bn(job.state.network, job.split, job.signature, batch_size=job.params.batch_size)


def _keep_if_best(job: _Job, score: float, epoch: int, moment: StepInfo) -> None:
    """Of equal scores the later one: it was trained for longer. An epoch in which a hook is not done does not count."""
    assert job.validation is not None
    state, position = job.state, job.state.position
    if not all(hook.is_done(moment) for hook in state.hooks):
        return
    best = position.kept_score
    is_better = best is None or job.validation.is_better(score, best)
    position.stale = 0 if is_better else position.stale + 1
    if is_better or score == best:
        position.kept, position.kept_score = epoch, score
        state.best = snapshot(state.network) if job.params.checkpoint == "best" else None


def _settle(job: _Job) -> None:
    """The weights that are given: the best epoch's, or the last's, averaged where that was asked for."""
    state = job.state
    if state.best is not None:
        fill(state.network, state.best)
        if state.position.kept == 0 and state.position.epoch:
            job.run.events.warn(
                f"no epoch of training scored better on the validation split than the {state.position.before:.4g} at its start, "
                "whose weights are kept; that split is a fair judge only where the model was not trained on it before"
            )
    elif state.position.step:
        if state.average is not None:
            state.average.fill(state.network)
        _impose(job)
    state.best = None


def _tell(job: _Job, *, always: bool = False) -> None:
    now = time.perf_counter()
    if now - job.told < _PROGRESS_SECONDS and not always:
        return
    job.told, position, params = now, job.state.position, job.params
    spent = position.seconds + now - job.started
    left = (job.steps - position.step) * spent / max(1, position.step)
    epoch = min(position.epoch + (position.batch > 0), params.epochs)
    parts = [f"epoch {epoch}/{params.epochs}", f"loss {position.total / max(1, position.count):.3f}"]
    if position.scores and job.validation is not None:
        parts.append(f"{job.validation.name} {position.scores[-1]:.2f}")
    if 0 < position.step < job.steps:
        parts.append(f"{_duration(left)} left")
    job.run.events.progress(", ".join(parts), position.step, job.steps)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def _facts(job: _Job) -> dict[str, Any]:
    position, params = job.state.position, job.params
    facts: dict[str, Any] = {
        "epochs": position.epoch,
        "loss": position.losses,
        "seconds": position.seconds,
        "samples_per_second": round(position.epoch * len(job.split) / max(position.seconds, 1e-9), 1),
    }
    if job.validation is not None:
        by_epoch = position.kept if params.checkpoint == "best" else position.epoch
        last = position.scores[-1] if position.scores else position.before
        facts |= {
            "validation_metric": job.validation.name,
            "validation_before": position.before,
            "validation_by_epoch": position.scores,
            "kept_epoch": by_epoch if by_epoch is not None else position.epoch,
            "validation": position.kept_score if params.checkpoint == "best" and position.kept is not None else last,
        }
    if _is_over(position, params) and position.epoch < params.epochs:
        facts["stopped"] = f"after epoch {position.epoch}: no better score for {position.stale} epochs"
    if job.others is not None:
        facts["other_outputs"] = other_facts(job.others, job.state.network, job.signature, job.run)
    if params.precision != "float32":
        facts["precision"] = params.precision if job.is_in_16_bits else "float32"
    if job.resumed:
        facts["resumed_at_step"] = job.resumed
    if job.processes.count > 1:
        facts["processes"] = job.processes.count
    return facts


def _call(hooks: Iterable[Hook], name: str, network: nn.Module, moment: StepInfo) -> None:
    for hook in hooks:
        getattr(hook, name)(network, moment)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
