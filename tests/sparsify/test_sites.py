"""Which tensors names and globs mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

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


@pytest.mark.parametrize(
    "computed",
    [
        torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm, torch.nn.utils.parametrizations.weight_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 1),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_weight_that_is_computed_is_none(computed: Any) -> None:
    model = nn.Sequential(computed(nn.Conv1d(4, 8, 3)), nn.Conv1d(8, 2, 1))
    with pytest.raises(ValueError, match=r"0.weight is computed by a parametrization .* remove_weight_norm"):
        sp.sites_of(model)
    assert [site.name for site in sp.sites_of(model, ignore=("0",))] == ["1.weight"]


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_recurrent_weight_that_is_computed_is_none() -> None:
    layer = torch.nn.utils.weight_norm(nn.LSTM(4, 5, proj_size=2), "weight_hh_l0")
    with pytest.raises(ValueError, match="weight_hh_l0 is computed"):
        sp.sites_of(layer)
    assert [site.name for site in sp.sites_of(layer, ignore=("weight_hh_l0",))] == ["weight_ih_l0", "weight_hr_l0"]


def test_the_added_key_and_value_of_attention_are_no_weights() -> None:
    layer = nn.MultiheadAttention(8, 2, kdim=6, add_bias_kv=True)
    weights = ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert [site.name for site in sp.sites_of(layer)] == weights
    assert [site.name for site in sp.sites_of(layer, ("bias_k",))] == ["bias_k"]
