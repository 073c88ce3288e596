"""In the training loops of others: attached to the optimiser, the sparsifier needs nothing of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench import sparsify as sp

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
Y = X[:, :3].argmax(1)
RECIPE = sp.Prune(sp.Cubic(0.75, end=10), sp.Rule(sp.SnipMomentum()), every=2)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def masked(model: nn.Module, sparsifier: sp.Sparsifier, steps: int) -> None:
    """All steps were counted, the share is met, and what is masked is zero."""
    assert sparsifier.steps == steps
    assert sparsifier.sparsity == pytest.approx(0.75, abs=0.01)
    sp.check(model, sparsifier.masks)


@pytest.mark.filterwarnings("ignore")  # its own
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning")

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.sparsifier = sp.Sparsifier(self.net, RECIPE)

        def training_step(self, batch: Any, _number: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.sparsifier.attach(torch.optim.SGD(self.net.parameters(), lr=0.05))

    task = Task()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=4, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, loader)
    masked(task.net, task.sparsifier, 16)


@pytest.mark.filterwarnings("ignore")  # its own
def test_hugging_face_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": F.cross_entropy(self.net(x), labels)}

    task = Task()
    sparsifier = sp.Sparsifier(task, RECIPE)
    optimizer = sparsifier.attach(torch.optim.SGD(task.parameters(), lr=0.05))
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    options = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=4, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    transformers.Trainer(task, options, train_dataset=data, optimizers=(optimizer, schedule)).train()
    masked(task, sparsifier, 16)


def _rank(rank: int, folder: str) -> None:
    """One of two processes, each with its own half of the data."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = net()
    wrapped = nn.parallel.DistributedDataParallel(model)
    sparsifier = sp.Sparsifier(model, RECIPE)
    optimizer = sparsifier.attach(torch.optim.SGD(wrapped.parameters(), lr=0.05))
    for _ in range(16):
        optimizer.zero_grad()
        F.cross_entropy(wrapped(X[rank::2]), Y[rank::2]).backward()
        optimizer.step()
    masked(model, sparsifier, 16)
    torch.save((model.state_dict(), sparsifier.masks), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ddp(tmp_path: Path) -> None:
    """Gradients are the same in all processes, so that masks are, too."""
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for mine, other in zip(*states, strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)
