"""A whole model, layer by layer through the pruned prefix: what every layer reads, what it loses, resumed, spilled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from workbench import sparsify as sp
from workbench.sparsify.layerwise.problem import Method

IMAGES = torch.randn(64, 4, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Convolutions of every kind, a shortcut, a norm, a product with a weight ``[in, out]``, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.back = nn.ConvTranspose2d(8, 8, 2)
        self.product = nn.Parameter(torch.randn(8, 12) / 3)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.back(x + F.relu(self.grouped(x)))).mean((2, 3))
        out: Tensor = self.head(F.relu(x @ self.product))
        return out


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(64, 4, 6, 6))
    return model.eval()


@pytest.mark.parametrize("pattern", [sp.Elements(), sp.NofM(2, 4), sp.Blocks(2, 2)], ids=repr)
@pytest.mark.parametrize("correct", [True, False], ids=["corrected", "plain"])
def test_every_layer_loses_its_share(pattern: sp.Pattern, correct: bool) -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = sp.prune_layerwise(
        wb.trace(model, IMAGES[:2]), 0.5, pattern=pattern, calibration=IMAGES, correct=correct, layers=("*",)
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [step.layer for step in pruned.steps] == ["stem", "grouped", "back", "product", "head"]
    assert pruned.sparsity == 0.5
    assert not pruned.left
    sp.check(pruned.model, pruned.masks)
    for name, mask in pruned.masks.items():
        assert mask.shape == before[name].shape
        assert int((~mask).sum()) == mask.numel() // 2
        if isinstance(pattern, sp.NofM):  # along what is summed over
            along = mask.movedim(0 if name in ("back.weight", "product") else 1, -1)
            assert set(along.reshape(-1, 4).sum(1).tolist()) == {2}
    changed = {name for name, tensor in pruned.model.state_dict().items() if not torch.equal(tensor, before[name])}
    weights = {"stem.weight", "grouped.weight", "back.weight", "product", "head.weight"}
    biases = {"norm.running_mean", "grouped.bias", "back.bias", "head.bias"}  # what stands before a BN shifts its mean
    assert changed == weights | (biases if correct else set())


def textbook(weight: Tensor, rows: Tensor, damp: float = 0.01, block: int = 128) -> Tensor:
    """SparseGPT at one half, written down once more from the paper: by inverses, not by our factor."""
    weight = weight.double().clone()
    hessian = 2 * rows.double().T @ rows.double() / len(rows)
    hessian += damp * hessian.diagonal().mean() * torch.eye(len(hessian))
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian)).mT
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        worth = weight[:, start:stop].square() / upper.diagonal()[start:stop].square()
        order = worth.flatten().argsort(stable=True)[: worth.numel() // 2]
        gone = torch.zeros(worth.numel(), dtype=torch.bool).index_fill_(0, order, True).view_as(worth)
        for column in range(start, stop):
            error = weight[:, column] * gone[:, column - start] / upper[column, column]
            weight[:, column:] -= error[:, None] * upper[column, column:]
            weight[gone[:, column - start], column] = 0
    return weight


def test_the_textbook_through_the_pruned_prefix() -> None:
    """The second layer's Hessian is that of what the pruned first layer gives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6)).double()
    rows = torch.randn(200, 12, dtype=torch.float64)
    pruned = sp.prune_layerwise(
        wb.trace(model, rows[:2]), 0.5, sp.SparseGpt(block=8), calibration=rows, correct=False, refit=0
    )
    first = textbook(model[0].weight.detach(), rows, block=8)
    read = F.relu(rows @ first.T + model[0].bias).detach()
    second = textbook(model[2].weight.detach(), read, block=8)
    assert torch.allclose(pruned.model[0].weight, first, atol=1e-8)  # type: ignore[index]
    assert torch.allclose(pruned.model[2].weight, second, atol=1e-8)  # type: ignore[index]
    wanted = model(rows).detach()
    lost = (pruned.model(rows).detach() - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert pruned.steps[-1].after == pytest.approx(float(lost), rel=1e-6)


def test_corrected_and_refitted_lose_less() -> None:
    """On inputs that nobody has seen."""
    model = net()
    graph, fresh = wb.trace(model, IMAGES[:2]), torch.randn(256, 4, 6, 6, generator=torch.Generator().manual_seed(9))

    @torch.no_grad()
    def lost(**options: object) -> float:
        pruned = sp.prune_layerwise(graph, 0.5, calibration=IMAGES, **options)  # type: ignore[arg-type]
        return float((pruned.model(fresh) - model(fresh)).square().mean())

    magnitude = lost(method=sp.Scored(), correct=False, refit=0)
    plain, refitted, whole = lost(correct=False, refit=0), lost(correct=False), lost()
    assert whole < refitted < plain < magnitude


class _Killed(Exception):
    pass


def test_killed_and_resumed(tmp_path: Path) -> None:
    """Behind every layer: what is finished is not done again, and the bytes are those of one run."""
    graph = wb.trace(net(), IMAGES[:2])
    whole = sp.prune_layerwise(graph, 0.5, calibration=IMAGES)
    calls: list[str] = []

    class Dying(sp.SparseGpt):
        def __repr__(self) -> str:
            return "SparseGpt(block=128, damp=0.01)"

        def __call__(self, problem: sp.Problem, pattern: sp.Pattern, amount: sp.Amount) -> sp.Solution:
            calls.append(problem.name)
            if len(calls) % 2 == 0:
                raise _Killed
            return super().__call__(problem, pattern, amount)

    for _ in range(4):
        with pytest.raises(_Killed):
            sp.prune_layerwise(graph, 0.5, Dying(), calibration=IMAGES, store=tmp_path)
    pruned = sp.prune_layerwise(graph, 0.5, Dying(), calibration=IMAGES, store=tmp_path)
    names = ["stem", "grouped", "back", "product", "head"]
    assert calls == [name for name in names for _ in range(2)][1:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(pruned.model.state_dict()[name], tensor)
    assert pruned.steps == whole.steps
    with pytest.raises(ValueError, match=r"belongs to another amount: 0.5 there, Absolute\(value=0.4\) here"):
        sp.prune_layerwise(graph, sp.Absolute(0.4), calibration=IMAGES, store=tmp_path)
    (tmp_path / "layer.back.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"layer.back.safetensors is damaged; delete it, and back is pruned again"):
        sp.prune_layerwise(graph, 0.5, calibration=IMAGES, store=tmp_path)


def test_on_disk_the_same() -> None:
    graph = wb.trace(net(), IMAGES[:2])
    held, spilled = (
        sp.prune_layerwise(graph, 0.5, calibration=list(IMAGES.split(16)), memory=memory) for memory in (1 << 30, 0)
    )
    assert held.steps == spilled.steps
    assert all(torch.equal(mask, spilled.masks[name]) for name, mask in held.masks.items())


def test_shares_masks_and_names() -> None:
    """Each weight its own amount; masks from before stay; what is tied or not named is left alone."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(16, 8)
            self.inner = nn.Linear(8, 8)
            self.head = nn.Linear(8, 16, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(F.relu(self.inner(self.words(ids))))
            return out

    ids = torch.randint(16, (32, 5), generator=torch.Generator().manual_seed(0))
    pruned = sp.prune_layerwise(wb.trace(Tied(), ids[:2]), 0.5, calibration=[ids])
    assert pruned.left == {"head": "its weight is used more than once"}
    assert [step.layer for step in pruned.steps] == ["inner"]

    graph = wb.trace(net(), IMAGES[:2])
    shares = sp.Shares({"stem*": 0.25, "*": 0.5})
    pruned = sp.prune_layerwise(graph, shares, calibration=IMAGES, ignore=("head", nn.ConvTranspose2d))
    assert {step.layer: step.sparsity for step in pruned.steps} == {"stem": 0.25, "grouped": 0.5, "product": 0.5}
    again = sp.prune_layerwise(graph, 0.75, calibration=IMAGES, layers=("stem",), masks=pruned.masks)
    assert int((~again.masks["stem.weight"]).sum()) == 216
    assert not (again.masks["stem.weight"] & ~pruned.masks["stem.weight"]).any()
    with pytest.raises(ValueError, match=r"no layer is a 'nothing'"):
        sp.prune_layerwise(graph, 0.5, calibration=IMAGES, layers=("nothing",))
    with pytest.raises(ValueError, match=r"no layer can be pruned \(all are to be ignored\)"):
        sp.prune_layerwise(graph, 0.5, calibration=IMAGES, layers=("head",), ignore=("head",))
    with pytest.raises(ValueError, match=r"Slices\(dim=0\) removes whole slices of stem.weight"):
        sp.prune_layerwise(graph, 0.5, pattern=sp.rows(), calibration=IMAGES)
    with pytest.raises(ValueError, match=r"stem.weight has 4 inputs, which 8 does not divide"):
        sp.prune_layerwise(graph, 0.5, pattern=sp.NofM(4, 8), calibration=IMAGES)


def test_half_precision_keeps_its_type() -> None:
    """Statistics and updates are in more: it comes out as close as the rounding of the weights lets it."""
    model = net()
    half = net().bfloat16()
    graph = wb.trace(half, IMAGES[:2].bfloat16())
    pruned = sp.prune_layerwise(graph, 0.5, calibration=IMAGES.bfloat16())
    assert {tensor.dtype for tensor in pruned.model.parameters()} == {torch.bfloat16}
    sp.check(pruned.model, pruned.masks)
    with torch.no_grad():
        wanted = model(IMAGES)
        plain = sp.prune_layerwise(graph, 0.5, sp.Scored(), calibration=IMAGES.bfloat16(), correct=False, refit=0)
        errors = [(one.model.float()(IMAGES) - wanted).square().mean() for one in (pruned, plain)]
    assert errors[0] < errors[1] / 4


@pytest.mark.parametrize("method", [sp.SparseGpt(), sp.Obc(), sp.Scored(sp.Wanda())])
def test_a_layer_behind_one_that_loses_all_reads_constants(method: Method) -> None:
    """Its bias alone gives the original's mean; whatever the constants are, their rounding is no information."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 2))
        shares = sp.Shares({"0*": 1.0, "*": 0.5})
        pruned = sp.prune_layerwise(wb.trace(model, x[:2]), shares, method, calibration=[x])
        assert [step.sparsity for step in pruned.steps] == [1.0, 0.5, 0.5]
        with torch.no_grad():
            assert torch.allclose(pruned.model(x), model(x).mean(0).expand(64, -1), atol=1e-4)
            assert torch.allclose(pruned.model[:3](x), model[:3](x).mean(0).expand(64, -1), atol=1e-4)  # type: ignore[index]
