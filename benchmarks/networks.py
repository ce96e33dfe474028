"""Small networks that quantizers find harder than plain convolutions. Attention and concat are trained here in a minute.

python benchmarks/networks.py [FOLDER]        writes attention.safetensors and concat.safetensors, default build/
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EPOCHS = 60


class Block(nn.Module):
    """Pre-norm attention and a GELU perceptron. x: (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = x.shape[1], x.shape[2]
        parts = self.qkv(self.norm1(x)).reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        weights = torch.softmax(q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5, dim=-1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(-1, tokens, width))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class Attention(nn.Module):
    """A vision transformer for 8x8 images: 16 patches of 2x2. x: (n, 1, 8, 8)."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(torch.zeros(1, 16, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Concat(nn.Module):
    """A small DenseNet: each layer reads all before it, with HardSwish. x: (n, 1, 8, 8)."""

    def __init__(self, growth: int = 16, layers: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, growth, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(growth * (n + 1), growth, 3, padding=1), nn.BatchNorm2d(growth), nn.ReLU())
            for n in range(layers)
        )
        self.mix = nn.Conv2d(growth * (layers + 1), 64, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.head(F.hardswish(self.mix(x)).mean((2, 3)))


class Small(nn.Sequential):
    """One product so small that anything around it costs more. x: (n, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


class Wide(nn.Sequential):
    """Products that wait for weights rather than arithmetic. x: (n, 1, 8, 8)."""

    def __init__(self, width: int = 1024) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )


class Squeeze(nn.Module):
    """Squeeze-and-excitation: channels weighed by their means. x: (n, c, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Depthwise(nn.Module):
    """A small MobileNet. activation: a module of torch.nn. per_group: channels of each group of the 3 x 3 convolutions.

    x: (n, 3, h, w).
    """

    def __init__(self, activation: str, squeeze: bool = False, per_group: int = 1) -> None:
        super().__init__()
        act = getattr(nn, activation)
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), act())
        self.blocks = nn.ModuleList()
        for width, out, stride in ((32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1)):
            wide = 3 * width
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(width, wide, 1, bias=False),
                    nn.BatchNorm2d(wide),
                    act(),
                    nn.Conv2d(wide, wide, 3, stride, 1, groups=wide // per_group, bias=False),
                    nn.BatchNorm2d(wide),
                    act(),
                    *([Squeeze(wide)] if squeeze else []),
                    nn.Conv2d(wide, out, 1, bias=False),
                    nn.BatchNorm2d(out),
                )
            )
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            y = block(x)
            x = x + y if x.shape == y.shape else y
        return self.head(x.mean((2, 3)))


def fashion_mobile() -> Depthwise:
    """For single grey images (n, 1, h, w)."""
    network = Depthwise("Hardswish", squeeze=True)
    network.first[0] = nn.Conv2d(1, 32, 3, 2, 1, bias=False)
    return network


def main() -> None:
    from train_builtin import distort, samples

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    folder.mkdir(exist_ok=True)
    images, labels = samples("train")
    for name, make in (("attention", Attention), ("concat", Concat)):
        torch.manual_seed(0)
        network = make()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(network(distort(images[chosen])), labels[chosen], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        save_file(network.state_dict(), folder / f"{name}.safetensors")
        print(f"{folder / name}.safetensors: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
