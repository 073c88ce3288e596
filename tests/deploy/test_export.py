"""Exported files give the eager model's numbers, at any batch size, and where workbench is not installed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench as wb
from tests.models import Lambda
from workbench import extras
from workbench.deploy import onnx
from workbench.deploy.session import Session
from workbench.graph.inputs import Inputs

WIDTH, HEADS, KEYS, WORDS = 24, 4, 2, 31


class Block(nn.Module):
    """Grouped queries with rotated positions, then a gated perceptron."""

    def __init__(self) -> None:
        super().__init__()
        size = WIDTH // HEADS
        self.before, self.between = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.out = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = (nn.Linear(WIDTH, KEYS * size, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 40, bias=False) for _ in range(2))
        self.down = nn.Linear(40, WIDTH, bias=False)
        angles = torch.arange(64)[:, None] * 100.0 ** -(torch.arange(0, size, 2) / size)
        self.register_buffer("angles", torch.cat([angles, angles], 1), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        angles = self.angles[: x.shape[2]]
        one, other = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-other, one], -1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (layer(y).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (part.repeat_interleave(HEADS // KEYS, 1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """A Llama in small, its embedding tied to its head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(WORDS, WIDTH), nn.ModuleList(Block() for _ in range(2))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        x = self.words(words)
        for block in self.blocks:
            x = block(x)
        return {"state": x, "scores": self.head(self.norm(x))}


def convolutional() -> tuple[nn.Module, Any]:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4)), torch.zeros(1, 3, 9, 9)


class Several(nn.Module):
    """Two inputs; outputs in a tuple and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.a(one).relu() + self.b(other).relu()
        return self.out(x), [x.sum(1), one * 2, one]


def several() -> tuple[nn.Module, Any]:
    return Several(), (torch.randn(2, 3), torch.randn(2, 5))


def decoder() -> tuple[nn.Module, Any]:
    return Decoder(), {"words": torch.randint(WORDS, (2, 7))}


def winnowed(model: nn.Module, inputs: Any) -> nn.Module:
    torch.manual_seed(0)
    for tensor in model.parameters():  # some models begin with zeros, which would hide everything
        if not tensor.any():
            nn.init.normal_(tensor, std=0.02)
    graph, draw = wb.trace(model, inputs), random.Random(0)
    return graph.winnow({g.name: draw.sample(range(g.units), max(1, round(0.7 * g.units))) for g in graph.exact})


CASES = {"convolutional": convolutional, "several": several, "decoder": decoder}
WRITERS = {"onnx": wb.export_onnx, "pt2": wb.export_program}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("case", CASES)
def test_the_file_agrees_at_any_batch_size(case: str, writer: str, tmp_path: Path) -> None:
    model, inputs = CASES[case]()
    small = winnowed(model, inputs).train()
    exported = WRITERS[writer](small, inputs, tmp_path / "deep" / f"small.{writer}")
    assert exported.any_batch
    assert exported.batches == (1, 3)
    assert exported.worst < 1e-5
    assert [file.name for file in exported.path.parent.iterdir()] == [f"small.{writer}"]
    assert small.training
    assert "any batch" in repr(exported)


def test_onnx_names(tmp_path: Path) -> None:
    import onnxruntime

    model, inputs = decoder()
    path = wb.export_onnx(model, inputs, tmp_path / "x.onnx").path
    session = onnxruntime.InferenceSession(path)
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("words", ["batch", 7])]
    shapes = [(value.name, value.shape) for value in session.get_outputs()]
    assert shapes == [("state", ["batch", 7, WIDTH]), ("scores", ["batch", 7, WORDS])]
    assert onnx._output_names(torch.zeros(1), ["x"]) == ["output"]
    assert onnx._output_names([torch.zeros(1), (torch.zeros(1),)], ["x"]) == ["output_0", "output_1_0"]


class Named(NamedTuple):
    """Fields that are called as operations or inputs are."""

    logits: Tensor
    linear: Tensor


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda h: Named(h, h.relu()), ["logits", "linear"]),
        (lambda h: {"hidden": h}, ["output_hidden"]),
        (lambda h: {"x_0": h, "x": [h.relu(), h + 1]}, ["x_0", "x_0_2", "x_1"]),
        (lambda h: {"output_hidden": h, "hidden": h * 2}, ["output_hidden", "output_hidden_2"]),
        (lambda h: {"linear": h.relu(), "weight": h.sigmoid()}, ["linear", "weight"]),
    ],
)
def test_onnx_outputs_have_names_of_their_own(returned: Any, names: list[str], tmp_path: Path) -> None:
    """Whatever inputs, weights and inner values are called."""

    class Model(nn.Linear):
        def forward(self, hidden: Tensor) -> Any:
            return returned(super().forward(hidden))

    exported = wb.export_onnx(Model(4, 4), torch.randn(2, 4), tmp_path / "x.onnx")
    session = Session(exported.path)
    assert session.names == ["hidden"]
    assert [value.name for value in session.session.get_outputs()] == names


def test_a_program_runs_without_workbench(tmp_path: Path) -> None:
    model, inputs = decoder()
    small = winnowed(model, inputs)
    path = wb.export_program(small, inputs, tmp_path / "x.pt2").path
    torch.save(inputs["words"], tmp_path / "words.pt")
    code = f"""
import sys
sys.modules["workbench"] = None  # importing it raises
import torch
scores = torch.export.load({str(path)!r}).module()(words=torch.load({str(tmp_path / "words.pt")!r}))["scores"]
torch.save(scores, {str(tmp_path / "scores.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = small(**inputs)["scores"]
    assert torch.allclose(torch.load(tmp_path / "scores.pt"), expected, atol=1e-5)


def test_a_fixed_batch_is_said(tmp_path: Path) -> None:
    model = Lambda(lambda m, x: m.a(x).reshape(2, 8), a=nn.Linear(4, 4))
    exported = wb.export_program(model, torch.randn(2, 2, 4), tmp_path / "x.pt2")
    assert not exported.any_batch
    assert "batches of 2 only" in repr(exported)


@pytest.mark.parametrize("writer", WRITERS)
def test_other_numbers_are_refused_and_nothing_is_written(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = convolutional()
    small = winnowed(model, inputs)
    call = Inputs.__call__
    monkeypatch.setattr(Inputs, "__call__", lambda self, model: call(self, model) * 1.01)
    with pytest.raises(wb.Refused, match="the file gives other numbers than the eager model"):
        WRITERS[writer](small, inputs, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'workbench\[onnx\]'"):
        wb.export_onnx(nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "x.onnx")


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    model = Lambda(lambda m, x: m.a(x) if x.sum() > 0 else x, a=nn.Linear(2, 2))
    for write in WRITERS.values():
        with pytest.raises(wb.Refused, match="it cannot follow the forward"):
            write(model, torch.zeros(1, 2), tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_b_16", "swin_t"])
def test_torchvision(name: str, writer: str, tmp_path: Path) -> None:
    from torchvision import models

    model = models.get_model(name, weights=None).eval()
    x = torch.rand(1, 3, 224, 224)
    exported = WRITERS[writer](winnowed(model, x), x, tmp_path / "x")
    assert exported.any_batch
    assert exported.worst < 1e-4
