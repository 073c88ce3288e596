"""Fine-tuning: the loss falls, a killed run ends in the same weights, the teacher and the modes stay."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import workbench as wb

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
