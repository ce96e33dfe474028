"""Training in several processes: each takes part of every batch, and the result is what one process would give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressctl.core.errors import StageError
from compressctl.training.data import TensorBatch


@dataclass(frozen=True)
class Processes:
    """index: this process, from 0, of `count`. device: what it trains on, a GPU of its own where there is one."""

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def part(self, batch: TensorBatch) -> tuple[TensorBatch, float]:
        """This process's samples of a batch, in whole tuples, and their share of it; the shares of all processes sum to 1.

        A batch with fewer tuples than there are processes is worked on by all of them.
        """
        size = batch.tuples.size
        count = len(batch) // size
        if count < self.count:
            return batch, 1 / self.count
        start, end = count * self.index // self.count, count * (self.index + 1) // self.count
        return batch.part(start * size, end * size), (end - start) / count

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all processes' tensors; a sum of the same numbers in the same order everywhere."""
        if self.count == 1:
            return value
        return _all_reduced(value)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In place, all of them in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Every process's values, one after another, in all processes."""
        return list(values) if self.count == 1 else list(gather_object(list(values)))

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()

    @contextmanager
    def shared_norms(self, network: nn.Module) -> Iterator[None]:
        """BatchNorms that train use the whole batch's mean and variance, not those of this process's part.

        torch's SyncBatchNorm does the same on GPUs alone, and as another class of module.
        """
        with _sharing(_norms(network) if self.count > 1 else ()):
            yield


@contextmanager
def norms_as_in(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """While those of network use the whole batch's statistics, so do those of another that computes with its weights."""
    is_shared = any("forward" in vars(norm) for norm in _norms(network))
    with _sharing(_norms(other) if is_shared else ()):
        yield


def _norms(network: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in network.modules() if isinstance(module, _BatchNorm))


@contextmanager
def _sharing(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    changed = list(norms)
    for norm in changed:
        norm.forward = partial(_shared_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward


def join(count: int) -> Processes:
    """This process among `count`, which a launcher (accelerate launch, torchrun) started and which all call this."""
    state = meet()
    if count == 1:
        return Processes(0, 1, state.device)
    if count != state.num_processes:
        raise StageError(f"{count} processes shall train together, and {state.num_processes} are there")
    return Processes(state.process_index, count, state.device)


def meet() -> PartialState:
    """What accelerate knows about this process and its device; the first call waits for the other processes.

    A GPU is used where there is one, whatever the model is compressed for. Without one accelerate must be told to look for
    other processes on CPUs: it takes a launcher's word for it alone when it is `accelerate launch --cpu`.
    """
    is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=is_cpu, timeout=_PATIENCE)


_PATIENCE = timedelta(days=7)
"""One process may measure for hours while the others wait for it; where one dies, the launcher ends the rest."""


def _shared_forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not (norm.training or norm.running_mean is None):
        plain: Tensor = type(norm).forward(norm, x)
        return plain
    wide = x.float()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = _sum(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = _sum(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = _sum((centred * centred).sum(axes)) / count
    _track(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    scaled = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        scaled = scaled * norm.weight.view(shape) + norm.bias.view(shape)
    return scaled.to(x.dtype)


def _sum(value: Tensor) -> Tensor:
    """Over all processes, with gradients that go back to all of them."""
    summed: Tensor = _SumOverProcesses.apply(value)  # type: ignore[no-untyped-call]
    return summed


class _SumOverProcesses(torch.autograd.Function):
    """Each process's loss depends on every process's value, so that gradients are summed like the values were."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return _all_reduced(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(gradients[0])


def _all_reduced(value: Tensor) -> Tensor:
    summed = value.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(summed)
    return summed


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Running statistics as BatchNorm keeps them; momentum None stands for the plain mean over all batches."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    with torch.no_grad():
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)
