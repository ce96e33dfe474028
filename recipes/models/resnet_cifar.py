"""ResNets for 32 x 32 images (He et al. 2016, section 4.2), with the paper's parameter-free shortcuts ("option A")."""

from torch import Tensor, nn
from torch.nn import functional


def resnet20(width: int = 16) -> nn.Module:
    """width: channels of the first stage; 8 makes a network with a quarter of the multiply-accumulates."""
    return ResNet(blocks_per_stage=3, width=width)


def resnet56() -> nn.Module:
    return ResNet(blocks_per_stage=9)


class ResNet(nn.Module):
    """Three stages of width, 2 * width and 4 * width channels; (n, 3, 32, 32) to (n, classes)."""

    def __init__(self, blocks_per_stage: int, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks_per_stage, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks_per_stage, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks_per_stage, stride=2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.added_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Option A: every stride-th pixel, new channels filled with zeros on both sides."""
        if self.stride == 1 and self.added_channels == 0:
            return x
        half = self.added_channels // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added_channels - half))


def _stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride)
    return nn.Sequential(first, *(Block(channels_out, channels_out, 1) for _ in range(blocks - 1)))
