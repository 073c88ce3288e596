"""Which tensors names and globs mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench import sparsify as sp


class Net(nn.Module):
    """One of each layer that has weights, and tensors that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2, groups=2))
        self.attention = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(4, 5)
        self.embedding, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)
        self.head.weight = self.embedding.weight
        self.position = nn.Parameter(torch.zeros(2, 8))


WEIGHTS = [
    "stem.0.weight", "stem.2.weight", "attention.in_proj_weight", "attention.out_proj.weight", "lstm.weight_ih_l0",
    "lstm.weight_hh_l0", "embedding.weight",
]  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "ignore", "expected"),
    [
        (("*",), (), WEIGHTS),  # the head's is the embedding's, under its first name
        (("head",), (), ["embedding.weight"]),
        (("*",), ("head", "lstm", "attention"), ["stem.0.weight", "stem.2.weight"]),
        (("stem",), (), ["stem.0.weight", "stem.2.weight"]),
        (("stem.*",), (), ["stem.0.weight", "stem.2.weight"]),
        (("stem.?.weight",), (), ["stem.0.weight", "stem.1.weight", "stem.2.weight"]),
        (("stem.*.bias",), (), ["stem.0.bias", "stem.1.bias", "stem.2.bias"]),
        (("stem.1.weight",), (), ["stem.1.weight"]),
        (("position",), (), ["position"]),
        (("embedding.weight",), (), ["embedding.weight"]),
        (("stem", "lstm"), ("lstm.weight_hh*",), ["stem.0.weight", "stem.2.weight", "lstm.weight_ih_l0"]),
        (("*weight",), ("attention", "lstm"), ["stem.0.weight", "stem.2.weight", "embedding.weight"]),
    ],
)
def test_names_mean(layers: tuple[str, ...], ignore: tuple[str, ...], expected: list[str]) -> None:
    assert [site.name for site in sp.sites_of(Net(), layers, ignore)] == expected


def test_a_transposed_convolution_is_turned() -> None:
    (site,) = sp.sites_of(Net(), ("stem.2",))
    weight = torch.randn(4, 3, 2, 2)
    assert site.fans == (6, 2, 2, 2)
    assert torch.equal(site.turned(site.turned(weight)), weight)
    layer = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    layer.weight.data = weight
    x = torch.randn(1, 4, 1, 1)  # one place: output o sums over the inputs of its group
    expected = torch.stack([
        (site.turned(weight).flip(2, 3)[o] * x[0, o // 3 * 2 : o // 3 * 2 + 2]).sum(0) for o in range(6)
    ])  # fmt: skip
    assert torch.allclose(layer(x)[0], expected, atol=1e-6)
