"""The rewritten graph: an ordinary module that trains, moves, copies and exports."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.constructs import CONSTRUCTS
from workbench import trace, verify
from workbench.graph.modules import safe
from workbench.graph.record import recorded


class Fixed(nn.Module):
    """Sizes in the forward, a norm by batch, and chance: as a module, as a function, and by a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8 * 16, 3)
        self.drop, self.path = nn.Dropout(0.5), DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = self.path(self.norm(self.hidden(x)))
        return self.head(F.dropout(self.drop(x.view(-1, 8 * 16)), 0.25, self.training))


class DropPath(nn.Module):
    """Drops whole samples in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5) if self.training else x


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return trace(Fixed().eval(), torch.randn(2, 3, 4, 4)).winnow({"hidden": [0, 3, 5]})


def test_modules_and_names_stay(small: nn.Module) -> None:
    assert isinstance(small, torch.fx.GraphModule)
    assert type(small).__name__ == "Fixed"  # as it prints itself
    assert set(small.state_dict()) <= set(Fixed().state_dict())
    kinds = {name: type(module) for name, module in small.named_children()}
    assert kinds == {"hidden": nn.Conv2d, "norm": nn.BatchNorm2d, "path": DropPath, "drop": nn.Dropout,
                     "dropout_1": nn.Dropout, "head": nn.Linear}  # fmt: skip
    assert small.dropout_1.p == 0.25
    assert small.norm.num_features == small.hidden.out_channels == 3


def test_norms_and_chance_train(small: nn.Module) -> None:
    x = torch.randn(16, 3, 4, 4)
    assert torch.equal(small(x), small(x))
    small.train()
    before = small.norm.running_mean.clone()
    assert not torch.equal(small(x), small(x))
    assert not torch.equal(small.norm.running_mean, before)
    small(x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


class Part(nn.Module):
    """Its forward doubles the first four channels: once others leave, these are not the first four any more."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.hidden, self.activation, self.head = nn.Linear(3, 6), activation, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.hidden(x)).clone()
        x[:, :4] *= 2
        return self.head(x)


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(True),
     nn.Hardsigmoid(), nn.Hardtanh(0, 1)],
    ids=str,
)  # fmt: skip
def test_a_forward_that_no_longer_fits_is_seen_behind_dead_units(activation: nn.Module) -> None:
    """On the inputs that models are compared on, the unit is dead; on others it need not be."""
    torch.manual_seed(0)
    model = Part(activation)
    nn.init.constant_(model.hidden.bias, -100.0)
    x = torch.randn(8, 3)
    small = trace(model, x).winnow({"hidden": [1, 5]})
    assert recorded(small).rewritten
    for net in (model, small):
        nn.init.constant_(net.hidden.bias, 0.5)
    with torch.no_grad():
        model.head.weight[:, [0, 2, 3, 4]] = 0
        torch.testing.assert_close(small(x), model(x))


def test_the_mode_stays() -> None:
    model = Fixed().train()
    assert trace(model, torch.randn(2, 3, 4, 4)).winnow({"hidden": [1]}).training
    assert model.training


def test_a_copy_can_be_verified(small: nn.Module) -> None:
    twin = copy.deepcopy(small)
    assert recorded(twin) == recorded(small)
    torch.manual_seed(0)
    assert verify(Fixed().eval(), twin, torch.randn(2, 3, 4, 4)).ok


def test_another_device(small: nn.Module) -> None:
    """No tensor is made where the trace was made."""
    assert small.to("meta")(torch.randn(2, 3, 4, 4, device="meta")).device.type == "meta"
    made = next(construct for construct in CONSTRUCTS if construct.name == "attention by hand")
    graph = trace(made.build().eval(), made.inputs(2))
    halved = graph.winnow({group.name: range(1, group.units) for group in graph.groups})
    assert isinstance(halved, torch.fx.GraphModule)
    assert halved.to("meta")(made.inputs(3).to("meta")).device.type == "meta"


def test_it_exports_again_with_a_free_batch(small: nn.Module) -> None:
    x = torch.randn(2, 3, 4, 4)
    exported = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False).module()
    more = torch.randn(7, 3, 4, 4)
    torch.testing.assert_close(exported(more), small(more))


def test_hooks_run_once() -> None:
    model = Fixed().eval()
    model.hidden.register_forward_hook(lambda module, inputs, output: output * 2)
    graph = trace(model, torch.randn(2, 3, 4, 4))
    assert verify(graph, graph.winnow({"hidden": [0, 3, 5]})).ok


class Hostile(nn.Module):
    """A parameter whose name would be code."""

    NAME = 'a"); print("owned'

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.register_parameter(self.NAME, nn.Parameter(torch.randn(3, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.hidden(x).view(-1, 8), getattr(self, self.NAME))


def test_a_hostile_name_stays_data(capsys: pytest.CaptureFixture[str]) -> None:
    graph = trace(Hostile().eval(), torch.randn(2, 5))
    small = graph.winnow({"hidden": [0, 2, 7]})
    assert isinstance(small, torch.fx.GraphModule)
    assert verify(graph, small).ok
    assert capsys.readouterr().out == ""
    assert safe(Hostile.NAME).isidentifier()


def test_safe_names_differ() -> None:
    assert safe("layers.0.weight") == "layers.0.weight"
    names = ["a-b", "a_b", "a b", "class", "a.b-c"]
    assert len({safe(name) for name in names}) == len(names)
    assert all(part.isidentifier() for name in names for part in safe(name).split("."))
