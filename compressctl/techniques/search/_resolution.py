"""The size of the images that a network sees, as something that a subnetwork may have less of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError
from compressctl.core.model import TorchModel
from compressctl.graph.torch_outputs import named_outputs
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.modules.smaller_images import SmallerImages, resized
from compressctl.techniques.prune.narrower import Channels

RESOLUTION = "resolution of "
"""Before the input's name, in the name of a group."""

_STEP = 10
"""Per cent of height and width between one size and the next."""

_LEAST_PIXELS = 8

_CHANNELS = (1, 3, 4)
"""Of images; a last axis of so many, where the second is none, is theirs."""


class ImageSizes:
    """Heights and widths of the network's one input of images, down to this share of them. now: what the network stands in already, as an earlier search left it.

    Raises NothingToCompressError where there is no such input, or where the outputs' shapes follow its size, so that another task reads them.
    """

    def __init__(self, model: TorchModel, least: float, now: SmallerImages | None = None) -> None:
        if isinstance(model.body, SmallerImages):
            raise NothingToCompressError(
                "the network sees smaller images already", hint="leave out `min_resolution`, or the stage before"
            )
        self._network, self._inputs = model.body, example_inputs(model.signature)
        self._place, self.name = _images(model)
        shape = self._inputs[self._place].shape
        self._channels_last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
        self._whole = (shape[1], shape[2]) if self._channels_last else (shape[2], shape[3])
        self._now = 100 if now is None else round(100 * now.size[0] / self._whole[0])
        shares = [share for share in range(_STEP, self._now, _STEP) if share >= 100 * least - 1e-6]
        sizes = {share: (_near(self._whole[0], share), _near(self._whole[1], share)) for share in shares}
        self._sizes = {
            share: size
            for share, size in sizes.items()
            if min(size) >= _LEAST_PIXELS and size != self._whole and self._gives_the_same(size)
        }
        self._fewer = tuple(sorted(self._sizes))
        if now is not None:
            self._sizes[self._now] = now.size
        if not self._sizes:
            raise NothingToCompressError(
                "the network has no use for smaller images: it fails on them, or its outputs' shapes follow the images'",
                hint="leave out `min_resolution`: it serves classifiers and others that look at an image as a whole",
            )

    def _gives_the_same(self, size: tuple[int, int]) -> bool:
        """Shapes, of smaller images."""
        with torch.no_grad():
            before = named_outputs(self._network.eval()(*self._inputs))
            try:
                after = named_outputs(self._network(*self._smaller(size)))
            except Exception:
                return False
        return {name: value.shape for name, value in before.items()} == {
            name: value.shape for name, value in after.items()
        }

    def _smaller(self, size: tuple[int, int]) -> list[Tensor]:
        given = list(self._inputs)
        given[self._place] = resized(given[self._place], size, self._channels_last)
        return given

    def groups(self, _: Collection[str]) -> Iterator[Channels]:
        """The one input as a group of 100 per cent, or of what is left of them."""
        name = RESOLUTION + self.name
        if self._fewer:
            yield Channels(name, (), self._now, self._fewer, name, None)

    @cached_property
    def inputs(self) -> Mapping[int, Sequence[Tensor]]:
        """By per cent, what the network is given then."""
        return {100: list(self._inputs), **{share: self._smaller(size) for share, size in self._sizes.items()}}

    def share(self, kept: Mapping[str, int]) -> int:
        """Per cent of height and width."""
        return kept.get(RESOLUTION + self.name, self._now)

    def go(self, kept: Mapping[str, int], _: Collection[str]) -> bool:
        return self.share(kept) < 100

    def around(self, network: nn.Module, kept: Mapping[str, int], _: Collection[str]) -> nn.Module:
        size = self._sizes[self.share(kept)]
        return SmallerImages.around(network, size=size, place=self._place, channels_last=self._channels_last)


def _images(model: TorchModel) -> tuple[int, str]:
    """The input's place and name."""
    found = [
        (place, spec.name)
        for place, spec in enumerate(model.signature.inputs)
        if len(spec.shape) == 4 and spec.batch_axis == 0 and spec.dtype.startswith("float")
        and all(isinstance(size, int) for size in spec.shape[1:]) and spec.fed_by is None
    ]  # fmt: skip
    if len(found) != 1:
        what = "no input of images of one size" if not found else "several inputs of images"
        raise NothingToCompressError(f"the network has {what}", hint="leave out `min_resolution`")
    return found[0]


def _near(pixels: int, share: int) -> int:
    """This share of so many, as strided layers can use it."""
    step = 8 if pixels >= 64 else 2
    return min(pixels, max(step, round(pixels * share / 100 / step) * step))
