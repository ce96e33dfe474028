"""A network that sees its images smaller than they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compressctl.sources.modules.around import Around


class SmallerImages(Around):
    """A network whose input number `place`, images (n, channels, height, width), is brought to `size` (height, width) first, bilinearly. Its callers give images as large as before."""

    def __init__(self, size: Sequence[int], place: int = 0) -> None:
        super().__init__()
        self.size, self.place = (int(size[0]), int(size[1])), place

    def constructor_arguments(self) -> Mapping[str, Any]:
        return {"size": list(self.size), "place": self.place}

    def forward(self, *inputs: Any) -> Any:
        given = list(inputs)
        given[self.place] = resized(given[self.place], self.size)
        return self.network(*given)


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """images: (n, channels, height, width)."""
    return nn.functional.interpolate(images, size=(size[0], size[1]), mode="bilinear", align_corners=False)
