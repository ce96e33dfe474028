"""A vision transformer of Hugging Face's `transformers`, built from a config: nothing is downloaded, nothing here knows it."""

from torch import Tensor, nn


def digits_vit() -> nn.Module:
    """(n, 1, 8, 8) to (n, 10): patches of 2 x 2, four layers of four heads."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=10,
        attn_implementation="eager",
    )
    return Logits(ViTForImageClassification(config))


class Logits(nn.Module):
    """transformers return an object with several fields; a file has the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits
