"""Which calibration samples reach a tensor of a network that decides by its input what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.feeds import whole_feeds
from compressctl.core.model import Signature
from compressctl.graph.branches import decisions
from compressctl.graph.execute import ActivationRecorder

_FEWEST = 16
"""Samples: what fewer reach is calibrated on all."""

_BATCH = 16


class Reached:
    """decided: the tensors that say of each sample what it does not need, to be run beside what is watched."""

    def __init__(self, behind: Mapping[str, tuple[str, ...]], samples: Mapping[str, int]) -> None:
        self._behind = dict(behind)
        self.samples = dict(samples)

    @property
    def decided(self) -> list[str]:
        return list(dict.fromkeys(name for names in self._behind.values() for name in names))

    def rows(self, tensor: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """A tensor's values of the samples that reach it; all where none is left out, or where no axis counts samples."""
        given = values[tensor]
        behind = self._behind.get(tensor, ())
        if not behind:
            return given
        left = np.any([values[name].reshape(len(values[name]), -1)[:, 0] for name in behind], axis=0)
        return given[~left] if given.shape[:1] == left.shape else given


def reached(
    model: onnx.ModelProto, signature: Signature, split: Split, tensors: Iterable[str], events: Events
) -> Reached:
    """Runs the split once where the graph decides anything."""
    found = decisions(model.graph)
    if not found:
        return Reached({}, {})
    late = [({name for node in one.late for name in node.output}, one.decided) for one in found]
    behind = {
        tensor: names for tensor in tensors if (names := tuple(decided for made, decided in late if tensor in made))
    }
    counts = dict.fromkeys(behind, 0)
    recorder = ActivationRecorder(model, [one.decided for one in found])
    for feed in whole_feeds(split, signature, _BATCH):
        values = recorder.run(feed.inputs)
        for tensor, names in behind.items():
            left = np.any([values[name].reshape(len(values[name]), -1)[:, 0] for name in names], axis=0)
            counts[tensor] += int((~left).sum())
    few = sorted(tensor for tensor, count in counts.items() if count < _FEWEST)
    if few:
        events.warn(
            f"fewer than {_FEWEST} calibration samples reach {few[0]}{f' and {len(few) - 1} more tensors' if len(few) > 1 else ''}: the ranges there are those of all "
            "samples; more calibration samples would tell"
        )
    enough = {tensor: names for tensor, names in behind.items() if counts[tensor] >= _FEWEST}
    return Reached(enough, counts)
