"""How many bytes of a subnetwork's values are alive at once, without making it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from compressctl.layers.live_values import LiveValues, live_values
from compressctl.techniques.prune.narrower import Channels

_SAME = 1e-6


class ValuesOf:
    """network: whole. inputs: by per cent of the images' height and width, 100 first, of so many samples. groups: of channels and heads. narrowed: the network with one group as narrow as this.

    What a group's channels make of each value is read off one narrower network for each group; a value of several groups shrinks by their product.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Mapping[int, Sequence[Tensor]],
        samples: int,
        groups: Mapping[str, Channels],
        narrowed: Callable[[str, int], nn.Module],
    ) -> None:
        self._whole = {share: live_values(network.eval(), given) for share, given in inputs.items()}
        self._samples = samples
        self._given = sum(value.nbytes for value in inputs[100]) / self._samples
        self._blocks: dict[tuple[int, str], np.ndarray] = {}
        first = self._whole[100]
        self._slopes: dict[str, tuple[int, np.ndarray]] = {}
        for name, group in groups.items():
            if group.widths:
                after = live_values(narrowed(name, group.widths[0]).eval(), inputs[100])
                self._slopes[name] = (group.whole, _slopes(first, after, group.widths[0] / group.whole))

    def __call__(
        self, kept: Mapping[str, int], gone: Collection[str], seen: Mapping[str, float], resolution: int
    ) -> float:
        """Bytes for a sample. kept: by group, its channels. seen: by block, the share of the tokens that it computes. resolution: per cent."""
        values = self._whole[resolution]
        sizes = values.sizes.copy()
        for name, (whole, slopes) in self._slopes.items():
            if kept[name] < whole and len(slopes) == len(sizes):
                sizes *= 1 - slopes * (1 - kept[name] / whole)
        for block, share in seen.items():
            sizes[self._inside(resolution, block)] *= share
        for block in gone:
            # What a block gives is what it was given, where it is gone.
            passed_on = sizes[values.given[block]]
            sizes[self._inside(resolution, block)] = 0.0
            sizes[values.given[block]] = passed_on
        # Images are there as they were given too.
        more = self._given if resolution < 100 else 0.0
        return values.peak(sizes) / self._samples + more

    def _inside(self, resolution: int, block: str) -> np.ndarray:
        """Places of the values that a block computes."""
        if (resolution, block) not in self._blocks:
            names = self._whole[resolution].inside
            own = [place for place, name in enumerate(names) if name == block or name.startswith(f"{block}.")]
            self._blocks[resolution, block] = np.array(own, int)
        return self._blocks[resolution, block]


def _slopes(whole: LiveValues, narrower: LiveValues, share: float) -> np.ndarray:
    """By value, how much of it shrinks with the group's channels: 1 where all of it does. None of any where the two do not compute the same values."""
    if whole.inside != narrower.inside:
        return np.zeros(len(whole.sizes))
    ratios = np.divide(narrower.sizes, whole.sizes, out=np.ones(len(whole.sizes)), where=whole.sizes > 0)
    found: np.ndarray = np.clip((1 - ratios) / (1 - share), 0.0, 1.0)
    return np.where(found < _SAME, 0.0, found)
