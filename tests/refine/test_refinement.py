"""Joint refinement: nearer to the original on samples it never saw, or not at all; the caller's models untouched."""

from __future__ import annotations

import copy
import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models import TOYS, Toy, call, drawn
from workbench import Budget, Plan, Refinement, trace, verify
from workbench import sparsify as sp
from workbench.apply import apply
from workbench.calibrate import MEMORY, ROWS, Batches
from workbench.graph.inputs import Inputs
from workbench.graph.modules import safe
from workbench.graph.record import recorded
from workbench.graph.trace import ChannelGraph
from workbench.reconstruct import RIDGES
from workbench.refine import refinement
from workbench.refine.features import Features, reads, scales_of
from workbench.refine.optimizer import Moving
from workbench.refine.refinement import VALUES

module = importlib.import_module("workbench.apply")
QUICK = Refinement(steps=40, batch=32)


class Net(nn.Module):
    """Two convolutions, a BN and a head."""

    def __init__(self, widths: tuple[int, int] = (12, 16)):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, widths[0], 3, padding=1), nn.Conv2d(*widths, 3, padding=1)
        self.bn, self.head = nn.BatchNorm2d(widths[1]), nn.Linear(16 * widths[1], 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.b(self.a(x).relu())).relu()[:, :, ::2, ::2].flatten(1))


def net(seed: int = 0) -> tuple[Net, ChannelGraph]:
    torch.manual_seed(seed)
    model = Net()
    return model, trace(model, torch.randn(2, 3, 8, 8))


def plan_of(graph: ChannelGraph, kept: dict[str, list[int]]) -> Plan:
    units = {group.name: group.units for group in graph.groups}
    whole = {name: tuple(range(count)) for name, count in units.items()}
    stay = {name: tuple(some) for name, some in kept.items()}
    return Plan({**whole, **stay}, units, Budget(macs=0.5), 0.0, 0.0, graph.fingerprint)


def half(graph: ChannelGraph) -> Plan:
    return plan_of(graph, {group.name: list(range(group.units // 2)) for group in graph.groups})


def without_judges(graph: ChannelGraph, plan: Plan, data: list[Tensor]) -> nn.Module:
    """The repair that a refinement starts from."""
    batches = Batches.of(data)
    work = module._Applying(graph, plan, QUICK.split(graph, batches).fitted, RIDGES, ROWS, MEMORY, 0)
    return module._repaired(work, False)[0]


def smooth(samples: int) -> Tensor:
    """Images whose pixels depend on each other, as real ones do."""
    return nn.functional.interpolate(torch.randn(samples, 3, 2, 2), size=8, mode="bilinear")


def error(original: nn.Module, small: nn.Module, x: Tensor) -> float:
    original, small = copy.deepcopy(original).eval(), copy.deepcopy(small).eval()
    with torch.no_grad():
        wanted = original(x)
        return ((small(x) - wanted).square().mean() / wanted.var(correction=0)).item()


def test_it_is_nearer_on_fresh_samples() -> None:
    model, graph = net()
    data, fresh = smooth(512), smooth(512)
    plain = apply(graph, half(graph), [data])
    refined = apply(graph, half(graph), [data], refinement=Refinement(steps=200, batch=32, features=0.0))
    assert refined.refined is not None
    assert refined.refined.kept
    assert refined.refined.after < refined.refined.before
    assert error(model, refined.model, fresh) < 0.8 * error(model, plain.model, fresh)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_a_refined_model_is_verified_and_the_callers_is_untouched(toy: Toy) -> None:
    graph, data = toy.graph, [toy.example(16, 1), toy.example(16, 2)]
    state = {name: tensor.clone() for name, tensor in graph.model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in graph.model.parameters()]
    applied = apply(graph, plan_of(graph, drawn(toy, 1)), data, refinement=replace(QUICK, steps=3))
    assert applied.refined is None or not applied.refined.failed
    assert verify(graph.model, applied.model, toy.example()).ok
    assert all(torch.equal(state[name], tensor) for name, tensor in graph.model.state_dict().items())
    assert [parameter.requires_grad for parameter in applied.model.parameters()] == asked
    assert all(parameter.grad is None for parameter in (*graph.model.parameters(), *applied.model.parameters()))
    assert applied.model.training == graph.model.training
    call(applied.model, toy.example(3))


def test_twice_the_same_is_byte_equal() -> None:
    states = []
    for _ in range(2):
        _, graph = net()
        data = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        small = apply(graph, half(graph), [data], refinement=replace(QUICK, steps=5), seed=3).model
        states.append(small.state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), samples=st.sampled_from([16, 24, 64]), share=st.floats(0.2, 0.9))
def test_never_worse_on_fresh_samples(seed: int, samples: int, share: float) -> None:
    """No net is more than a twentieth worse than the same repair without it, with as few as four samples that judge."""
    model, graph = net(seed)
    kept = {group.name: list(range(max(1, round(share * group.units)))) for group in graph.groups}
    data, fresh = smooth(samples), smooth(512)
    repaired = without_judges(graph, plan_of(graph, kept), [data])
    refined = apply(graph, plan_of(graph, kept), [data], refinement=Refinement())
    assert refined.refined is not None
    if refined.refined.kept:
        assert error(model, refined.model, fresh) <= 1.05 * error(model, repaired, fresh)


def test_what_does_not_help_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wild the steps are, the model is the one that the repair alone gives, from all samples."""
    monkeypatch.setattr(refinement, "REACH", math.inf)
    _, graph = net()
    data = [torch.randn(64, 3, 8, 8)]
    plain = apply(graph, half(graph), data)
    wild = [apply(graph, half(graph), data, refinement=Refinement(steps=5, rate=rate)) for rate in (2.0, 1e4)]
    for applied in wild:
        assert applied.refined is not None
        assert not applied.refined.kept
        assert all(map(torch.equal, plain.model.state_dict().values(), applied.model.state_dict().values()))
    assert wild[1].refined is not None
    assert "diverged" in wild[1].refined.failed


def test_where_little_is_lost_little_is_moved() -> None:
    """Of twins one leaves: the repair is all but perfect, and steps of the usual size would undo it."""
    model, graph = net()
    with torch.no_grad():
        model.a.weight[3], model.a.bias[3] = model.a.weight[0], model.a.bias[0]  # type: ignore[index]  # it has a bias
    graph = trace(model, torch.randn(2, 3, 8, 8))
    kept = {"a": [unit for unit in range(12) if unit != 3]}
    data = [smooth(64)]
    small = without_judges(graph, plan_of(graph, kept), data)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    lost = error(model, small, smooth(64))
    QUICK.apply_(graph, small, Batches.of(data))
    moved = [((p - was).norm() / (1 + was.norm())).item() for p, was in zip(small.parameters(), before, strict=True)]
    assert lost < 1e-6
    assert max(moved) < 1e-2


def test_a_gradient_whose_square_is_nothing_makes_no_giant_step() -> None:
    parameter = nn.Parameter(torch.ones(8))
    moving = Moving.of(parameter)
    for number in range(1, 20):
        parameter.grad = torch.full((8,), 1e-25)
        moving.step(1e-3, number)
    assert (parameter - 1).abs().max() < 20 * 1e-3


def test_a_model_without_derivative_keeps_the_repair_and_says_why() -> None:
    class Counted(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    torch.manual_seed(0)
    model = Counted()
    graph = trace(model, torch.randn(2, 3, 8, 8))
    applied = apply(graph, half(graph), [torch.randn(16, 3, 8, 8)], refinement=QUICK)
    assert applied.refined is not None
    assert not applied.refined.kept
    assert "grad" in applied.refined.failed


class Odd(nn.Module):
    """A layer whose name is none in Python, and one that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("fc-1", nn.Linear(12, 32))
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=self.get_submodule("fc-1")(x).relu())


def test_layers_of_any_name_take_part_however_they_are_called() -> None:
    torch.manual_seed(0)
    model, x = Odd(), torch.randn(256, 12)
    applied = apply(graph := trace(model, x[:2]), half(graph), [x], refinement=QUICK)
    assert applied.refined is not None
    assert not applied.refined.failed
    model.set_submodule("fc-1", nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 32)))
    with reads(model, {safe("fc-1")}) as found:
        model(x)
    assert torch.equal(found[safe("fc-1")][0], x)
    assert found["last"][0].shape == (256, 32)


def test_criteria_see_layers_that_are_called_by_keyword() -> None:
    torch.manual_seed(0)
    masks = sp.prune(Odd(), 0.5, sp.Rule(sp.Wanda()), calibration=[torch.randn(32, 12)])
    assert masks["last.weight"].float().mean() == 0.5


def test_tokens_are_not_blended_and_can_be_refined() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.Linear(16, 50))
    graph = trace(model, torch.randint(50, (2, 7)))
    data = torch.randint(50, (128, 7))
    applied = apply(graph, half(graph), [data], refinement=QUICK)
    assert applied.refined is not None
    assert applied.refined.kept


def test_a_fixed_batch_is_never_cut() -> None:
    class Fixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 4
            return super().forward(x.reshape(4, 3, 8, 8))

    torch.manual_seed(0)
    model = Fixed()
    graph = trace(model, torch.randn(4, 3, 8, 8))
    applied = apply(graph, half(graph), list(torch.randn(64, 3, 8, 8).split(4)), refinement=QUICK)
    assert applied.refined is not None
    assert applied.refined.failed == ""
    single = apply(graph, half(graph), [torch.randn(4, 3, 8, 8)], refinement=QUICK).refined
    assert single is not None
    assert "no sample is left to judge" in single.failed


@pytest.mark.parametrize(
    ("options", "said"),
    [({"steps": 0}, "steps=0"), ({"rate": 0.0}, "rate above 0"), ({"features": -1.0}, "features >= 0"),
     ({"batch": 0}, "batch=0"), ({"held_out": 0}, "held_out=0")],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Refinement(**options)  # type: ignore[arg-type]


def test_what_judges_is_never_fitted_to() -> None:
    from workbench.refine.split import Split

    batches = Batches.of([torch.arange(30.0)[:, None], torch.arange(30.0, 50.0)[:, None]])
    split = Split(batches, 5, 8, whole=False)
    judging = torch.cat([inputs.tensors()[0] for inputs in split.judging])
    fitted = torch.cat([inputs.tensors()[0] for inputs in split.fitted])
    assert len(judging) == 5
    assert torch.equal(torch.cat([judging, fitted]).sort(0).values, torch.arange(50.0)[:, None])
    draws = split.forever(torch.Generator().manual_seed(0))
    drawn_samples = torch.cat([next(draws).tensors()[0] for _ in range(7)])  # in batches of 8, then anew
    assert not set(drawn_samples.flatten().tolist()) & set(judging.flatten().tolist())


def test_blends_lie_between_the_samples_and_keep_their_places() -> None:
    from workbench.refine.blend import blended

    torch.manual_seed(0)
    images, offsets = torch.rand(64, 3, 9, 9), torch.rand(64, 4)
    both = Inputs((images,), {"offset": offsets})
    image, offset = blended(both, torch.Generator().manual_seed(0)).tensors()
    assert image.shape == images.shape
    assert (image >= images.amin(0) - 1e-6).all()
    assert (image <= images.amax(0) + 1e-6).all()
    changed = (image != images).flatten(1).any(1)
    assert 16 < changed.sum() < 64  # about three quarters
    assert ((offset != offsets).any(1) <= changed).all()  # a sample's tensors are mixed alike
    words = Inputs((torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.long)), {})
    assert blended(words, torch.Generator().manual_seed(0)) is words


def test_bases_are_orthogonal_and_diagonalise_what_is_read() -> None:
    from workbench.refine.bases import input_bases

    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 36, 1030))
    x = torch.randn(64, 4, 8, 8)
    bases = input_bases(model, [Inputs.of(x)], torch.Generator().manual_seed(0))
    (conv,), (linear,) = bases[model[0].weight], bases[model[2].weight]
    assert conv.shape == (2, 18, 18)
    torch.testing.assert_close(conv.mT @ conv, torch.eye(18).expand(2, 18, 18), atol=1e-5, rtol=0)
    read = model[:2](x).detach()
    turned = linear[0].T @ (read.T @ read) @ linear[0]
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-3 * turned.diagonal().max()


def test_bases_are_found_where_divide_and_conquer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.refine.bases import input_bases

    def fails(_: Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    x = torch.randn(64, 6) @ torch.randn(6, 6)
    ((basis,),) = input_bases(nn.Linear(6, 2), [Inputs.of(x)], torch.Generator().manual_seed(0)).values()
    turned = basis.mT @ (x.mT @ x) @ basis
    assert torch.allclose(turned[0], torch.diag(turned[0].diagonal()), atol=1e-2)


def test_a_wide_layer_has_several_bases() -> None:
    from workbench.refine.bases import input_bases

    model = nn.Sequential(nn.Linear(1500, 2))
    (found,) = input_bases(model, [Inputs.of(torch.randn(20, 1500))], torch.Generator().manual_seed(0)).values()
    assert [len(basis[0]) for basis in found] == [750, 750]


def test_the_repair_never_sees_what_judges() -> None:
    """Also where the forward folds time into the batch: with other judges the repair is the same."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.flatten(0, 1)).relu()).unflatten(0, (len(x), -1))

    torch.manual_seed(0)
    graph = trace(Folded(), torch.randn(2, 5, 6))
    data = torch.randn(32, 5, 6)
    other = data.clone()
    other[7::8] = torch.randn(4, 5, 6)
    one, two = (without_judges(graph, half(graph), [some]).b.weight for some in (data, other))  # type: ignore[union-attr]
    torch.testing.assert_close(one, two, rtol=0, atol=1e-7)
    whole = apply(graph, half(graph), [other]).model.b.weight  # type: ignore[union-attr]
    assert (whole - one).abs().max() > 1e-4  # type: ignore[operator]


def test_layers_that_gather_take_part() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    graph = trace(model, torch.randn(2, 8), gather=True)
    kept = {group.name: list(range(group.units // 2)) for group in graph.exact}
    assert any("inputs" in name for name in kept)
    refined = apply(graph, plan_of(graph, kept), [torch.randn(64, 8)], refinement=QUICK).refined
    assert refined is not None
    assert refined.failed == ""


def test_a_step_takes_no_more_samples_at_a_time_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, graph = net()
    sizes: list[int] = []
    smaller = Features.smaller
    monkeypatch.setattr(
        Features, "smaller", lambda self, model, inputs: sizes.append(inputs.batch) or smaller(self, model, inputs)
    )
    data, memory = smooth(512), 5 * VALUES * graph.cost().activation_bytes
    refined = apply(graph, half(graph), [data], refinement=QUICK, memory=memory).refined
    assert refined is not None
    assert refined.kept
    assert sizes[:7] == [5, 5, 5, 5, 5, 5, 2]
    assert sum(sizes) == QUICK.steps * QUICK.batch


def test_parts_are_the_batch() -> None:
    split = QUICK.split(net()[1], Batches.of([smooth(64)]))
    whole = Inputs.of(torch.arange(32.0))
    parts = list(split.parts(whole, 5))
    assert torch.equal(torch.cat([part.args[0] for part, _ in parts]), whole.args[0])
    assert [share for _, share in parts] == [5 / 32] * 6 + [2 / 32]
    assert list(split.parts(whole, 32)) == [(whole, 1.0)]


def test_the_parts_of_a_step_give_its_gradients() -> None:
    """Each part is measured by the variance of the whole batch, down to one sample a part."""
    model, graph = net()
    small = without_judges(graph, half(graph), [smooth(64)])
    record = recorded(small)
    assert record is not None
    features, found = Features(graph, record), []
    model.eval(), small.eval()
    batch = Inputs.of(smooth(32))
    split = QUICK.split(graph, Batches.of([smooth(64)]))
    for most in (32, 31, 1):
        parts = list(split.parts(batch, most))
        scales = scales_of(features.original(model, part) for part, _ in parts)
        loss = sum(
            share * sum(features.errors(features.original(model, part), features.smaller(small, part), scales))
            for part, share in parts
        )
        found.append(torch.autograd.grad(loss, list(small.parameters())))
    for gradients in found[1:]:
        for one, other in zip(found[0], gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
