"""Layers whose place nothing else can take: the model's own code looks at them, or others read their weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench.factorize.standing import LOOKED_AT
from workbench.graph.trace import trace

RANKS = wb.Methods.of("weight_svd", "spatial_svd", "tucker")


def low(*layers: nn.Linear) -> None:
    """Give layers weights of nearly low rank, as trained ones have, so that a search lowers theirs."""
    for layer in layers:
        u, s, v = torch.linalg.svd(layer.weight.data, full_matrices=False)
        layer.weight.data = u[:, :4] * s[:4] @ v[:4] * 2


def study(model: nn.Module, *shape: int, **options: object) -> wb.Study:
    torch.manual_seed(1)
    return wb.Study(
        model.eval(), torch.randn(2, *shape), calibration=[torch.randn(48, *shape)], refinement=None, **options
    )  # type: ignore[arg-type]


class Encoder(nn.Module):
    """PyTorch's own layer hands its weights to one fused operation in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, dropout=0.0), 1)
        self.head = nn.Linear(32, 16)
        inside = self.encoder.layers[0]
        low(inside.linear1, inside.linear2, self.head)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Asks(nn.Module):
    """Its forward wants the dtype of one layer and the class of another; of the third it wants nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 16)
        low(self.a, self.b, self.c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x.to(self.a.weight.dtype)).relu())
        return self.c(x.relu() if isinstance(self.b, nn.Linear) else x)


def test_an_encoder_of_pytorch_is_compressed() -> None:
    model = Encoder()
    mine = study(model, 5, 32)
    kept = {left.layer: left.why for left in mine.sites[1]}
    assert kept["encoder.layers.0.linear1"] == kept["encoder.layers.0.linear2"] == LOOKED_AT
    result = mine.compress(wb.Budget(macs=0.9))
    assert result.verification.ok
    assert result.target_met
    assert result.model(torch.randn(3, 5, 32)).shape == (3, 5, 16)


def test_a_layer_that_the_forward_asks_keeps_its_rank() -> None:
    mine = study(Asks(), 16, methods=RANKS)
    assert [site.layer.name for site in mine.sites[0]] == ["c"]
    assert {left.layer: left.why for left in mine.sites[1]} == {"a": LOOKED_AT, "b": LOOKED_AT}
    result = mine.compress(wb.Budget(macs=0.95))
    assert [*result.plan.ranks] == ["c"]
    assert result.verification.ok
    with pytest.raises(ValueError, match="the rank of b cannot be set: the model's own code looks at the layer"):
        mine.by_hand({"b": wb.Rank("weight_svd", 2)})


def test_trying_leaves_the_model_as_it_was() -> None:
    model = Asks()
    before = dict(model.named_modules())
    assert study(model, 16).sites
    assert dict(model.named_modules()) == before
    assert [*model.state_dict()] == [*Asks().state_dict()]


class Twice(nn.Module):
    """One layer under two names; the forward goes by either."""

    def __init__(self, by: str):
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, padding=1)
        self.features = nn.Sequential(self.conv, nn.ReLU())
        self.out, self.by = nn.Conv2d(16, 4, 1), by

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x) if self.by == "features" else self.conv(x).relu())


@pytest.mark.parametrize("by", ["features", "conv"])
def test_a_layer_under_two_names_is_replaced_under_both(by: str) -> None:
    mine = study(Twice(by), 4, 6, 6)
    (name,) = (layer.name for layer in mine.graph.layers if layer.name != "out")
    result = mine.compress(mine.by_hand({name: wb.Rank("weight_svd", 2)}))
    small = result.model
    assert small.conv is small.features[0]
    assert isinstance(small.conv, nn.Sequential)
    assert result.ratio["params"] < 0.4
    assert result.verification.ok


def test_two_names_are_saved_and_restored(tmp_path: object) -> None:
    result = study(Twice("features"), 4, 6, 6).compress(wb.Budget(macs=0.5))
    result.save(tmp_path)  # type: ignore[arg-type]
    again = wb.restore(Twice("features").eval(), tmp_path)  # type: ignore[arg-type]
    x = torch.randn(3, 4, 6, 6)
    assert torch.equal(again(x), result.model(x))


class Tied(nn.Module):
    """A language model's head, whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        return self.head(x + self.down(self.up(x).relu()))


def test_a_head_tied_to_an_embedding_is_neither_refitted_nor_factorised() -> None:
    """It would have to serve the embedding, too, whose use lies before everything that the fit makes good."""
    torch.manual_seed(0)
    model = Tied().eval()
    tokens = torch.randint(0, 20, (64, 6))
    graph = trace(model, tokens[:2])
    assert [layer.name for layer in graph.layers if not graph.runs_once(layer)] == ["head"]
    mine = wb.Study(model, tokens[:2], calibration=[tokens], refinement=None)
    assert {left.layer: left.why for left in mine.sites[1]}["head"] == "its weight is used more than once"
    result = mine.compress(mine.by_hand({"down": wb.Ratio(0.25)}))
    assert torch.equal(result.model.embedding.weight, model.embedding.weight)
    assert result.model.head.weight is result.model.embedding.weight
