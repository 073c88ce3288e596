"""Fine-tuning: the loss falls, a killed run ends in the same weights, the teacher and the modes stay."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import workbench as wb
from workbench import sparsify as sp

OPTIMISERS = [
    partial(torch.optim.AdamW, lr=1e-2), partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    partial(torch.optim.RMSprop, lr=1e-3), partial(torch.optim.NAdam, lr=1e-2), partial(torch.optim.ASGD, lr=1e-2),
]  # fmt: skip


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(8 * 16, 4)
    ).eval()


def loader(**options: Any) -> DataLoader[Any]:
    torch.manual_seed(1)
    images = torch.randn(64, 1, 6, 6)
    labels = images[:, 0, 2:4, 2:4].flatten(1).argmax(1)
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, **options)


def apart(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        return float((one(images).softmax(1) - other(images).softmax(1)).abs().mean())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


class Killed(Exception):
    pass


class Dying:
    """Loads as another does, and dies at a batch of an epoch."""

    def __init__(self, inner: DataLoader[Any], epoch: int, batch: int):
        self.inner, self.left, self.generator = inner, epoch * len(inner) + batch, inner.generator

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Any:
        for batch in self.inner:
            if not self.left:
                raise Killed
            self.left -= 1
            yield batch


def test_the_loss_falls_and_modes_stay() -> None:
    model = net()
    model[1].train()
    means = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    batches = loader(generator=torch.Generator())
    before = torch.random.get_rng_state()
    done = wb.finetune(model, batches, 12, optimizer=OPTIMISERS[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert done.losses[-1] < 0.6 * done.losses[0]
    assert len(done.losses) == 12
    assert done.seconds > 0
    assert [module.training for module in model] == [False, True, False, False, False, False]
    assert not torch.equal(model[1].running_mean, means)  # type: ignore[arg-type]
    assert repr(done).startswith("Finetuned(12 epochs, loss ")
    assert done.to_dict()["losses"] == list(done.losses)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda made: made.func.__name__)
@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (2, 3)])
def test_a_killed_run_ends_in_the_same_weights(tmp_path: Path, optimiser: Any, epoch: int, batch: int) -> None:
    whole, killed, teacher = net(), net(), net()
    options: dict[str, Any] = {"teacher": teacher, "optimizer": optimiser}
    expected = wb.finetune(whole, loader(), 3, **options)
    path = tmp_path / "on" / "tune.safetensors"
    with pytest.raises(Killed):
        wb.finetune(killed, Dying(loader(), epoch, batch), 3, checkpoint=path, **options)
    assert not killed.training
    assert not same(killed, whole)
    again = net()
    assert wb.finetune(again, loader(), 3, checkpoint=path, **options).losses == expected.losses
    assert same(again, whole)
    assert not same(whole, net())
    assert same(teacher, net())


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tune.safetensors"
    wb.finetune(net(), loader(), 1, checkpoint=path)
    with pytest.raises(ValueError, match="another seed"):
        wb.finetune(net(), loader(), 1, checkpoint=path, seed=1)
    other = net()
    wb.finetune(other, loader(), 1)
    with pytest.raises(ValueError, match="another model"):
        wb.finetune(other, loader(), 1, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no checkpoint of finetune"):
        wb.finetune(net(), loader(), 1, checkpoint=path)


WEIGHTS = torch.ones(4)


def weighted(weight: Tensor) -> Any:
    def loss(output: Tensor, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(output, batch[1], weight=weight)

    return loss


def by_argument(output: Tensor, batch: Any, weight: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1], weight=weight)


def by_name(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1], weight=WEIGHTS)


class Weighted:
    def __init__(self, weight: Tensor):
        self.weight, self.log = weight, object()

    def __call__(self, output: Tensor, batch: Any) -> Tensor:
        return by_argument(output, batch, self.weight)

    def method(self, output: Tensor, batch: Any) -> Tensor:
        return self(output, batch)


LOSSES: dict[str, Any] = {
    "closure": weighted, "partial": lambda weight: partial(by_argument, weight=weight), "object": Weighted,
    "method": lambda weight: Weighted(weight).method,
    "default": lambda weight: lambda output, batch, weight=weight: by_argument(output, batch, weight),
}  # fmt: skip


@pytest.mark.parametrize("made", LOSSES.values(), ids=LOSSES)
def test_a_checkpoint_of_another_loss_is_refused(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "tune.safetensors"
    first, again = net(), net()
    wb.finetune(first, loader(), 1, loss=made(torch.ones(4)), checkpoint=path)
    wb.finetune(again, loader(), 1, loss=made(torch.ones(4)), checkpoint=path)
    assert same(first, again)
    with pytest.raises(ValueError, match="another loss"):
        wb.finetune(net(), loader(), 1, loss=made(torch.tensor([1.0, 100.0, 1.0, 1.0])), checkpoint=path)


def test_a_checkpoint_of_another_global_or_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tune.safetensors"

    def penalties(model: Any) -> list[Any]:
        return [lambda: model[5].weight.abs().sum(), lambda: model[5].weight.norm()]

    def run(penalty: int) -> None:
        model = net()
        wb.finetune(model, loader(), 1, loss=by_name, penalty=penalties(model)[penalty], checkpoint=path)

    run(0)
    run(0)
    with pytest.raises(ValueError, match="another penalty"):
        run(1)
    monkeypatch.setitem(globals(), "WEIGHTS", torch.tensor([1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(ValueError, match="another loss"):
        run(0)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    def run(strength: float) -> None:
        model = net()
        sparsifier = sp.Sparsifier(model, sp.Recipe((), (sp.Slimming(strength),)))
        wb.finetune(model, loader(), 1, penalty=sparsifier.penalty, checkpoint=tmp_path / "tune.safetensors")

    run(0.1)
    run(0.1)
    with pytest.raises(ValueError, match="another penalty"):
        run(0.2)


def test_what_a_loss_is_does_not_depend_on_the_process() -> None:
    """No address, no order of a set: a checkpoint is for another process to go on from."""
    code = (
        "from functools import partial; import torch; from tests.test_finetuning import LOSSES, by_name;"
        "from workbench.calls import digest_of_call as digest;"
        "far = lambda output, batch, names=frozenset({'a', 'b', 'c'}): output if batch in {'x', 'y', 'z'} else names;"
        "print(*(digest(made(torch.ones(4))) for made in LOSSES.values()), digest(by_name), digest(far))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }  # fmt: skip
    assert len(found) == 1


def test_a_frozen_layer_stays_with_a_checkpoint_too(tmp_path: Path) -> None:
    path = tmp_path / "tune.safetensors"
    wb.finetune(net(), loader(), 1, checkpoint=path)
    model = net()
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match="another set of parameters"):
        wb.finetune(model, loader(), 1, checkpoint=path)
    assert same(model, net())


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.b(y)


def test_several_inputs_come_as_a_list() -> None:
    """So does a DataLoader stack them."""
    x, labels = torch.randn(32, 8), torch.randint(4, (32,), dtype=torch.int32)
    data: Any = [((one, -one), label) for one, label in zip(x, labels, strict=True)]
    assert isinstance(next(iter(DataLoader(data, 8)))[0], list)
    assert wb.finetune(Two(), DataLoader(data, 8), teacher=Two()).losses[0] > 0


@pytest.mark.parametrize("kind", ["alone", "a list of one", "no label", "labels that are ignored"])
def test_distillation_alone_needs_no_label(kind: str) -> None:
    x = torch.randn(16, 8)
    batch = {"alone": x, "a list of one": [x], "no label": (x, None),
             "labels that are ignored": (x, torch.full((16,), -100))}[kind]  # fmt: skip
    torch.manual_seed(0)
    student, teacher = nn.Linear(8, 4), nn.Linear(8, 4)
    done = wb.finetune(student, [batch] * 20, teacher=teacher, distillation=1.0)
    assert wb.finetune(student, [batch] * 20, teacher=teacher, distillation=1.0).losses[0] < done.losses[0]
    if kind != "labels that are ignored":
        with pytest.raises(ValueError, match=r"the loader yields .* let it yield \(inputs, labels\), or give loss="):
            wb.finetune(student, [batch], teacher=teacher)


class Wrong:
    """A loader of four batches that says it had another number of them, or can be gone over once."""

    def __init__(self, length: int, once: bool = False):
        self.length, self.batches = length, list(loader())
        self.left = iter(self.batches) if once else None

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return self.left or iter(self.batches)


@pytest.mark.parametrize(
    ("given", "said"),
    [(Wrong(8), "the loader's length is 8, and it yielded 4 batches in epoch 1; give a list"),
     (Wrong(2), "the loader's length is 2, and it yields more batches; give a list"),
     (Wrong(4, once=True), "the loader's length is 4, and it yielded 0 batches in epoch 2; give a list")],
    ids=["fewer", "more", "once"],
)  # fmt: skip
def test_a_loader_yields_what_its_length_says(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wb.finetune(net(), given, 3)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(loader().dataset)


def test_distillation_alone_needs_no_true_label() -> None:
    torch.manual_seed(3)
    student, teacher = net(), net()
    nn.init.normal_(student[5].weight, std=0.5)  # type: ignore[arg-type]
    images = torch.randn(64, 1, 6, 6)
    batches = [(part, torch.zeros(16, dtype=torch.long)) for part in images.split(16)]
    far = apart(student, teacher, images)
    wb.finetune(student, batches, 30, teacher=teacher, distillation=1.0, optimizer=OPTIMISERS[0])
    assert apart(student, teacher, images) < 0.5 * far


def test_a_loss_of_ones_own() -> None:
    model = nn.Linear(3, 1)
    x = torch.randn(32, 3)

    def square(output: Tensor, batch: Any) -> Tensor:
        return (output - batch[1]).square().mean()

    batches = [(x, x.sum(1, keepdim=True))]
    done = wb.finetune(model, batches, 60, loss=square, optimizer=partial(torch.optim.SGD, lr=0.2))
    assert done.losses[-1] < 0.01 * done.losses[0]


def test_what_compress_returns_can_be_trained() -> None:
    x = torch.randn(32, 1, 6, 6)
    study = wb.Study(net(), x[:2], calibration=x.split(16), methods=wb.Methods(), refinement=None)
    plan = study.by_hand({"5": wb.Ratio(0.5), "0": wb.Rank("spatial_svd", 2)})
    small = study.compress(plan).model
    before = {name: parameter.clone() for name, parameter in small.named_parameters()}
    wb.finetune(small, loader(), 1, teacher=study.model)
    assert all(not torch.equal(parameter, before[name]) for name, parameter in small.named_parameters())
    assert not small.training


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number"),
        ({"distillation": 1.5}, "distillation=1.5 must be a share"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"warm_up": 1.0}, "warm_up=1.0 must be a share"),
        ({"teacher": nn.Linear(1, 1), "loss": lambda output, batch: output.sum()}, "a teacher and a loss"),
        ({"loader": []}, "the loader is empty"),
        ({"loader": [torch.zeros(2, 1, 6, 6)]}, "yields a Tensor"),
        ({"loss": lambda output, batch: output.sum() * float("nan")}, "the loss is nan at step 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_are_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wb.finetune(**({"model": net(), "loader": loader()} | options))


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter of Sequential requires gradients"):
        wb.finetune(net().requires_grad_(False), loader())
    with pytest.raises(TypeError, match="without a length"):
        wb.finetune(net(), (batch for batch in loader()))
    with pytest.raises(TypeError, match="the loader is a DataLoader without a length; give a list, or a DataLoader of"):
        wb.finetune(net(), DataLoader(Stream(), 16))
    with pytest.raises(TypeError, match="LBFGS needs a closure"):
        wb.finetune(net(), loader(), optimizer=torch.optim.LBFGS)


def test_a_penalty_is_a_part_of_the_loss() -> None:
    """Without anything else to learn, it is all that moves the weights."""
    model = nn.Linear(3, 2)
    before = model.weight.detach().abs().sum()
    options: dict[str, Any] = {"loss": lambda output, batch: 0 * output.sum()}
    done = wb.finetune(model, [(torch.randn(4, 3), None)] * 20, penalty=lambda: model.weight.abs().sum(), **options)
    assert model.weight.detach().abs().sum() < before
    assert 0 < done.losses[0] <= before
