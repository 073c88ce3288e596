"""In a training loop: masks hold, schedules are met, a run that is resumed ends in the same weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from workbench import sparsify as sp
from workbench.sparsify import Cubic, Hold, OneShot, Prune, Recipe, Rule, Sparsifier

X = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1))
Y = X.mean((2, 3)).argmax(1)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


Watch = Callable[[int, nn.Module, Sparsifier], None]


def train(
    model: nn.Module, sparsifier: Sparsifier, optimizer: torch.optim.Optimizer, steps: int, watch: Watch | None = None
) -> None:
    for _ in range(steps):
        place = sparsifier.steps * 8 % 40
        optimizer.zero_grad()
        (F.cross_entropy(model(X[place : place + 8]), Y[place : place + 8]) + sparsifier.penalty()).backward()
        optimizer.step()
        sparsifier.step()
        if watch:
            watch(sparsifier.steps, model, sparsifier)


def run(recipe: Recipe | Prune | Hold, steps: int, watch: Watch | None = None, **options: Any) -> Sparsifier:
    model = net()
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, recipe, optimizer=optimizer, **options)
    train(model, sparsifier, optimizer, steps, watch)
    return sparsifier


def zeros(model: nn.Module, names: Any) -> float:
    tensors = [model.get_parameter(name) for name in names]
    return sum(int((t == 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)


TOGETHER = Rule(scope=sp.Together())
RECIPES: dict[str, Recipe | Prune | Hold] = {
    "GMP": Prune(Cubic(0.9, end=12, begin=2), TOGETHER, every=2),
    "linear, random": Prune(sp.Linear(0.6, end=10), Rule(sp.Random(), scope=sp.Erk())),
    "SNIP-momentum": Prune(sp.Exponential(0.8, end=10), Rule(sp.SnipMomentum()), every=3),
    "Taylor, filters": Prune(Cubic(0.5, end=10), Rule(sp.Taylor(), sp.rows(), ignore=("6",)), every=2),
    "FPGM": Prune(sp.Cosine(0.5, end=8), Rule(sp.GeometricMedian(), sp.rows(), ignore=("6",)), every=2),
    "2:4": Prune(OneShot(0.5, begin=3), Rule(pattern=sp.NofM(), ignore=("0",))),
    "4 x 1": Prune(Cubic(0.75, end=9), Rule(pattern=sp.Blocks(4, 1), ignore=("6",)), every=2),
    "movement": Prune(Cubic(0.7, end=12, begin=4), Rule(sp.Movement(), scope=sp.Together()), returning=True),
    "soft movement": Prune(OneShot(1.0), Rule(sp.Movement(1.0, 1.0), scope=sp.Above(0.4)), returning=True),
    "AC/DC": Prune(sp.Alternating(0.8, end=14, compressed=3, dense=2, begin=2), TOGETHER, reset_momentum=True),
    "lottery ticket": Prune(sp.Rounds(0.8, rounds=3, length=4), TOGETHER, rewind=2),
    "lottery ticket from the start": Prune(sp.Rounds(0.8, rounds=3, length=4), TOGETHER, rewind=0),
    "RigL": Prune(OneShot(0.8), Rule(sp.Random(), scope=sp.Erk()), regrow=sp.Regrow(every=2, until=12)),
    "SNIP": Prune(OneShot(0.9), Rule(sp.Snip(), scope=sp.Together())),
    "LAMP": Prune(OneShot(0.9), Rule(sp.Lamp(), scope=sp.Together())),
    "two stages": Recipe((Prune(Cubic(0.5, end=6)), Prune(Cubic(0.5, end=12, begin=6), Rule(pattern=sp.rows())))),
    "hold": Hold(),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_ends_in_the_same_weights(name: str) -> None:
    """Saved in the middle, through a file that holds no code, into new objects."""
    recipe = RECIPES[name]
    whole = run(recipe, 16)
    for cut in (5, 8):
        first = run(recipe, cut)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in (first.model, first.optimizer, first)], file)  # type: ignore[union-attr]
        file.seek(0)
        states = torch.load(file, weights_only=True)
        model = net(seed=1)
        optimizer = sgd(model)
        sparsifier = Sparsifier(model, recipe, optimizer=optimizer)
        for part, state in zip((model, optimizer, sparsifier), states, strict=True):
            part.load_state_dict(state)
        assert sparsifier.masks.keys() == first.masks.keys()
        train(model, sparsifier, optimizer, 16 - cut)
        assert sparsifier.sparsity == whole.sparsity
        for key, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[key]), (name, cut, key)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_masked_is_zero_after_every_step(name: str) -> None:
    seen = []

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        for tensor, mask in sparsifier.masks.items():
            assert not model.get_parameter(tensor)[~mask].any()
        seen.append(sparsifier.sparsity)

    sparsifier = run(RECIPES[name], 16, watch)
    sp.check(sparsifier.model, sparsifier.masks)
    if name not in ("AC/DC", "movement", "soft movement", "hold"):
        assert seen == sorted(seen)  # it never falls
        assert seen[-1] > 0.3
    assert list(sparsifier.model.state_dict()) == list(net().state_dict())


def test_gmp_meets_its_schedule_exactly() -> None:
    recipe = RECIPES["GMP"]
    assert isinstance(recipe, Prune)
    total = sum(p.numel() for n, p in net().named_parameters() if n in ("0.weight", "3.weight", "6.weight"))

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        last = min(step - step % 2, 12)  # every second step from 2 on
        assert sum(int((~m).sum()) for m in sparsifier.masks.values()) == round(recipe.schedule(last) * total)

    run(recipe, 16, watch)


def test_epochs_are_steps_over_their_number() -> None:
    recipe = Recipe((Prune(sp.Linear(0.9, end=3, begin=1), every=1),), unit="epochs")
    seen = {}
    run(recipe, 35, lambda step, _model, s: seen.__setitem__(step, round(s.sparsity, 2)), steps_per_epoch=10)
    assert [seen[step] for step in (9, 10, 19, 20, 29, 30, 35)] == [0, 0, 0, 0.45, 0.45, 0.9, 0.9]
    with pytest.raises(ValueError, match=r"counts epochs; give steps_per_epoch="):
        Sparsifier(net(), recipe)


def test_acdc_forgets_momentum_where_weights_come_back() -> None:
    switched = []

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        optimizer = sparsifier.optimizer
        assert optimizer is not None
        buffers = [optimizer.state[model.get_parameter(n)]["momentum_buffer"] for n in sparsifier.masks]
        if step in (5, 10):  # compressed phases begin at 2, 7, 12; dense ones at 5, 10
            assert not any(buffer.any() for buffer in buffers)
            assert sparsifier.sparsity == 0
            switched.append(step)
        else:
            assert all(buffer.any() for buffer in buffers)

    run(RECIPES["AC/DC"], 12, watch)
    assert switched == [5, 10]


def test_only_what_comes_back_forgets_elsewhere() -> None:
    kept: dict[int, Tensor] = {}

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        assert sparsifier.optimizer is not None
        buffer = sparsifier.optimizer.state[model.get_parameter("6.weight")]["momentum_buffer"]
        mask = sparsifier.masks["6.weight"]
        kept[step] = mask.clone()
        if step % 2 == 0 and step < 12:
            back = mask & ~kept[step - 1]
            assert back.any()
            assert not buffer[back].any()
            assert not model.get_parameter("6.weight")[back].any()  # they grow from zero
            assert buffer[mask & kept[step - 1]].any()

    run(RECIPES["RigL"], 12, watch)


def test_rigl_drops_the_least_and_grows_by_the_gradient() -> None:
    """One update by hand."""
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    model[0].weight.data = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    rule = Rule(sp.Magnitude())
    recipe = Prune(OneShot(0.5), rule, regrow=sp.Regrow(every=1, until=1e9, share=0.5))
    sparsifier = Sparsifier(model, recipe).prepare()
    assert model[0].weight.tolist() == [[4, 3, 0, 0]]
    model[0].weight.grad = torch.tensor([[0.0, 0.1, 0.2, -0.3]])
    sparsifier.step()
    assert sparsifier.masks["0.weight"].tolist() == [[True, False, False, True]]
    assert model[0].weight.tolist() == [[4, 0, 0, 0]]


def test_movement_weights_come_back_with_their_value() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0]])
    recipe = Prune(OneShot(0.5), Rule(sp.Movement()), returning=True)
    sparsifier = Sparsifier(model, recipe)
    for gradient, expected in [([0.5, 0.1], [0, 2]), ([-1.0, 0.1], [1, 0]), ([0.0, -9.0], [0, 2])]:
        model[0].weight.grad = torch.tensor([gradient])
        sparsifier.step()
        assert model[0].weight.tolist() == [expected], gradient


def test_movement_multiplies_the_gradient_with_the_weight_that_made_it() -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sparsifier = Sparsifier(model, Prune(sp.Linear(0.5, end=100, begin=0), Rule(sp.Movement()), every=100))
    expected = torch.zeros(3)
    for _ in range(4):
        weight = model[0].weight.detach().clone()
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        expected -= (model[0].weight.grad * weight)[0]
        optimizer.step()
        sparsifier.step()
    assert torch.allclose(sparsifier.runs[0].known["0.weight"].flatten(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("criterion", "known"), [(sp.Taylor(), [4, None, 16, None]), (sp.SnipMomentum(0.5), [2, 3, 5.5, 6.75])]
)
def test_what_was_gathered_is_used_once_unless_it_lasts(criterion: sp.Criterion, known: list[float | None]) -> None:
    """Masks are chosen at every second step."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.ones(1, 2)
    sparsifier = Sparsifier(model, Prune(sp.Linear(0.001, end=100), Rule(criterion), every=2))
    for scale, expected in zip((2, 2, 4, 4), known, strict=True):
        model[0].weight.grad = torch.full((1, 2), float(scale))
        sparsifier.step()
        found = sparsifier.runs[0].known.get("0.weight")
        assert (None if found is None else found[0, 0].item()) == expected


def test_lottery_tickets_return_to_their_weights() -> None:
    early: dict[str, Tensor] = {}

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        if step == 2:
            early.update({name: t.clone() for name, t in model.state_dict().items()})
        if step in (4, 8, 12):
            for name, tensor in model.state_dict().items():
                mask = sparsifier.masks.get(name)
                assert torch.equal(tensor, early[name] if mask is None else early[name] * mask)
            assert sparsifier.optimizer is not None
            assert not any(s["momentum_buffer"].any() for s in sparsifier.optimizer.state.values())

    assert run(RECIPES["lottery ticket"], 14, watch).sparsity == pytest.approx(0.8, abs=0.001)


def test_a_sparse_model_is_trained_further() -> None:
    model = net()
    masks = sp.prune(model, 0.7)
    sp.mask_(model, masks)
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, Hold())
    before = model[6].weight.detach().clone()  # type: ignore[union-attr, operator]
    train(model, sparsifier, optimizer, 5)
    assert zeros(model, masks) == pytest.approx(0.7, abs=0.005)
    assert not torch.equal(before, model[6].weight)  # type: ignore[arg-type]
    assert all(torch.equal(sparsifier.masks[name], masks[name]) for name in masks)


@pytest.mark.parametrize("begin", [0, 3])
def test_the_first_masks_are_chosen_when_a_schedule_begins(begin: int) -> None:
    """And not ``every`` steps later."""
    model = net()
    sparsifier = Sparsifier(model, Prune(sp.OneShot(0.8, begin=begin), every=50))
    train(model, sparsifier, sgd(model), 5)
    assert sparsifier.sparsity == pytest.approx(0.8, abs=0.005)


def test_attached_to_the_optimiser_it_is_the_same() -> None:
    by_hand = run(RECIPES["GMP"], 14)
    model = net()
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, RECIPES["GMP"])
    assert sparsifier.attach(optimizer) is optimizer
    for step in range(14):
        place = step * 8 % 40
        optimizer.zero_grad()
        F.cross_entropy(model(X[place : place + 8]), Y[place : place + 8]).backward()
        optimizer.step()
    assert sparsifier.steps == 14
    for one, other in zip(by_hand.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_finetune_trains_what_is_masked() -> None:
    """The optimiser that finetune makes is attached."""
    model = net()
    sp.mask_(model, sp.prune(model, 0.6))
    sparsifier = Sparsifier(model, Hold())
    loader = list(zip(X.split(8), Y.split(8), strict=True))
    wb.finetune(model, loader, 2, optimizer=lambda parameters: sparsifier.attach(torch.optim.Adam(parameters)))
    assert sparsifier.steps == 10
    assert zeros(model, sparsifier.masks) == pytest.approx(0.6, abs=0.005)


def test_accumulated_gradients_are_one_step() -> None:
    """Two halves of a batch, and the whole: the same masks by gradient."""
    masks = []
    for parts in (1, 2):
        model = net().eval()  # BN of halves would be another network
        optimizer = sgd(model)
        sparsifier = Sparsifier(model, RECIPES["SNIP-momentum"])
        for _ in range(4):
            optimizer.zero_grad()
            for x, y in zip(X.chunk(parts), Y.chunk(parts), strict=True):
                (F.cross_entropy(model(x), y) / parts).backward()
            optimizer.step()
            sparsifier.step()
        masks.append(sparsifier.masks)
    assert all((masks[0][n] == masks[1][n]).float().mean() > 0.995 for n in masks[0])


def test_a_gradient_scaler_that_skips() -> None:
    """An infinite gradient is never looked at; attached, a skipped step does not count."""
    model = net()
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, RECIPES["SNIP-momentum"])
    sparsifier.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(X), Y)
        if step in (1, 4):
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert sparsifier.steps == 6
    assert all(tensor.isfinite().all() for tensor in sparsifier.runs[0].known.values())
    assert sparsifier.sparsity > 0


def test_infinite_gradients_are_passed_over_where_steps_are_counted_by_hand() -> None:
    model = net()
    sparsifier = Sparsifier(model, RECIPES["SNIP-momentum"])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    sparsifier.step()
    assert not sparsifier.runs[0].known
    assert sparsifier.steps == 1


def test_half_precision_weights() -> None:
    model = net().to(torch.bfloat16)
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, RECIPES["GMP"])
    for _ in range(13):
        optimizer.zero_grad()
        F.cross_entropy(model(X.to(torch.bfloat16)), Y).backward()
        optimizer.step()
        sparsifier.step()
    assert sparsifier.sparsity == pytest.approx(0.9, abs=0.001)
    assert model[0].weight.dtype == torch.bfloat16


def test_channels_are_masked_together_and_stay_so() -> None:
    model = net()
    graph = wb.trace(model, X[:2])
    rule = Rule(sp.Taylor(), sp.Channels())
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, Prune(Cubic(0.5, end=8), rule, every=2), graph=graph)
    train(model.train(), sparsifier, optimizer, 12)
    for group in graph.groups:
        rows = {member.tensor: model.get_parameter(member.tensor).detach().reshape(8, -1)
                for member in group.members if member.tensor in sparsifier.masks and member.role != "in"}  # fmt: skip
        gone = [row for row in range(8) if not any(tensor[row].any() for tensor in rows.values())]
        assert len(gone) == 4


def test_activations_are_measured_when_masks_are_due() -> None:
    recipe = Prune(Cubic(0.5, end=6), Rule(sp.Wanda(), sp.Elements(by_row=True)), every=3)
    assert run(recipe, 7, calibration=[X]).sparsity == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match=r"a criterion on activations; give calibration="):
        Sparsifier(net(), recipe)


def test_copies_go_their_own_way() -> None:
    first = run(RECIPES["GMP"], 6)
    model, sparsifier = copy.deepcopy((first.model, first))
    assert sparsifier.model is model
    assert sparsifier.optimizer is not None
    train(model, sparsifier, sparsifier.optimizer, 8)
    assert sparsifier.sparsity == pytest.approx(0.9, abs=0.001)
    assert first.sparsity < 0.9
    assert first.steps == 6


def test_the_model_is_exported_as_it_is() -> None:
    first = run(RECIPES["2:4"], 6)
    model = first.model.eval()
    program = torch.export.export(model, (X[:2],))
    assert not any("mask" in name for name in program.state_dict)
    assert torch.equal(program.module()(X[:2]), model(X[:2]))


def test_tied_weights_are_masked_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).relu())

    model = Tied()
    optimizer = sgd(model)
    sparsifier = Sparsifier(model, Prune(Cubic(0.5, end=4)))
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
        sparsifier.step()
    assert list(sparsifier.masks) == ["one.weight"]
    assert int((model.two.weight == 0).sum()) == 18
    assert model.two.weight is model.one.weight


def test_what_went_wrong_is_said() -> None:
    model = net()
    sparsifier = Sparsifier(model, RECIPES["SNIP"])
    with pytest.raises(ValueError, match=r"0.weight has no gradient, .* call step\(\) before zero_grad"):
        sparsifier.step()
    other = Sparsifier(net(), RECIPES["GMP"])
    with pytest.raises(ValueError, match=r"the state belongs to another recipe: Recipe\(.*Snip"):
        other.load_state_dict(sparsifier.state_dict())
    with pytest.raises(ValueError, match=r"no state of a sparsifier"):
        other.load_state_dict({})
    held = run(RECIPES["GMP"], 8)
    held.model[6] = nn.Linear(32, 4)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"mask of 6.weight is torch.bool \(3, 32\); it must be torch.bool \(4, 32\)"):
        held.step()
    with pytest.raises(ValueError, match=r"did you mean '6'|no layer or parameter is called '66'"):
        Sparsifier(net(), Hold(layers=("66",)))


def test_what_it_tells() -> None:
    sparsifier = run(RECIPES["GMP"], 12)
    assert repr(sparsifier) == "Sparsifier(Sequential: step 12, sparsity 0.8998)"
    frame = sparsifier.to_frame()
    assert list(frame.columns) == ["tensor", "elements", "masked", "sparsity"]
    assert frame["masked"].sum() == sum(int((~mask).sum()) for mask in sparsifier.masks.values())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Prune(sp.Rounds(0.8, 4, 5), rewind=8), "before rewind=8, .*give a time before the first"),
        (lambda: Prune(OneShot(0.5, begin=2), rewind=3), "masks are chosen before rewind=3"),
        (lambda: Prune(Cubic(0.5, end=20), every=4, rewind=5), "masks are chosen before rewind=5"),
        (lambda: Prune(Cubic(0.5, end=20), rewind=25), "masks are chosen before rewind=25"),
        (lambda: Prune(Cubic(0.9, end=9), Rule(pattern=sp.NofM(2, 4))), "at most 0.5 leave, not 0.9; give a smaller"),
        (lambda: Prune(Cubic(0.5, end=9), Rule(pattern=sp.NofM(), scope=sp.Erk())), "sets of 4 .* Erk has nothing"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_is_refused_at_once(make: Callable[[], Prune], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    "stage",
    [
        Prune(sp.Rounds(0.8, 3, 4), TOGETHER, rewind=4), Prune(OneShot(0.5, begin=2), rewind=2),
        Prune(Cubic(0.5, end=9), every=4, rewind=3), Prune(Cubic(0.5, end=9, begin=2), rewind=2),
        Prune(sp.Alternating(0.5, 9, 2, 2, begin=3), rewind=3),
    ],
)  # fmt: skip
def test_a_rewind_up_to_the_first_masks_is_one(stage: Prune) -> None:
    kept: list[Tensor] = []
    sparsifier = run(stage, 12, lambda step, model, _: kept.append(model[0].weight.detach().clone()))  # type: ignore[index]
    assert list(sparsifier.snapshots) == [stage.rewind]
    assert sparsifier.sparsity == pytest.approx(stage.final, abs=0.01)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(scope=sp.Together(maximum=0.5)), "the layers' limits allow"),
        (Rule(pattern=sp.Elements(by_row=True), scope=sp.Together()), "compete in 8 sets of their own"),
        (Rule(scope=sp.Shares({"0*": 0.5})), "no share is given for 3.weight"),
        (Rule(pattern=sp.NofM(), scope=sp.Shares({"*": 1}), ignore=("0",)), "4 of 4 units of 3.weight shall leave"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_training(rule: Rule, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sparsifier(net(), Prune(Cubic(0.9, end=10), rule))


def test_a_minimum_on_a_ramp() -> None:
    rule = Rule(scope=sp.Together(minimum=0.3, maximum=0.98))

    def watch(step: int, model: nn.Module, sparsifier: Sparsifier) -> None:
        total = sum(mask.numel() for mask in sparsifier.masks.values())
        assert sparsifier.sparsity * total == pytest.approx(round(Cubic(0.8, end=10)(step) * total))

    found = run(Prune(Cubic(0.8, end=10), rule), 12, watch).to_frame()
    assert (found["masked"] >= (0.3 * found["elements"]).round()).all()
