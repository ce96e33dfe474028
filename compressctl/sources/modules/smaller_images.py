"""A network that sees its images smaller than they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compressctl.sources.modules.around import Around


class SmallerImages(Around):
    """A network whose input number `place`, images (n, channels, height, width), is brought to `size` (height, width) first, bilinearly. Its callers give images as large as before.

    channels_last: whether images are (n, height, width, channels).
    """

    def __init__(self, size: Sequence[int], place: int = 0, channels_last: bool = False) -> None:
        super().__init__()
        self.size, self.place, self.channels_last = (int(size[0]), int(size[1])), place, channels_last

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {"size": list(self.size), "place": self.place, "channels_last": self.channels_last}

    def forward(self, *inputs: Any) -> Any:
        given = list(inputs)
        given[self.place] = resized(given[self.place], self.size, self.channels_last)
        return self.network(*given)


def resized(images: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    """images: (n, channels, height, width), or (n, height, width, channels)."""
    if channels_last:
        return resized(images.permute(0, 3, 1, 2), size, False).permute(0, 2, 3, 1)
    return nn.functional.interpolate(images, size=(size[0], size[1]), mode="bilinear", align_corners=False)
