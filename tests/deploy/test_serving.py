"""An exported file serves where neither torch nor workbench is, and what cannot be served leaves no file behind."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from tests.models import Lambda
from workbench.deploy import onnx as writer

SERVE = """
import sys
if sys.argv[3] == "blocked":
    class Blocked:
        def find_spec(self, name, *_):
            if name.partition(".")[0] in ("torch", "workbench"):
                raise ModuleNotFoundError(f"{name} is not installed here")
    sys.meta_path.insert(0, Blocked())
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
x = numpy.load(sys.argv[2])
outputs = [session.run(None, {"image": x[:count]})[0].tolist() for count in (1, 5, len(x))]
made = session.get_modelmeta().custom_metadata_map
absent = [name for name in ("torch", "workbench") if name not in sys.modules]
print(json.dumps({"names": names, "outputs": outputs, "made": made, "absent": absent}))
"""


class Net(nn.Module):
    """An image in, its scores out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"scores": self.layers(image)}


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def served(python: str, path: Path, x: Tensor, how: str) -> dict[str, Any]:
    """What a process of its own says that computes with a file."""
    given = path.with_name("x.npy")
    np.save(given, x.numpy())
    done = subprocess.run(
        [python, "-c", SERVE, str(path), str(given), how], capture_output=True, text=True, cwd=path.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], model: nn.Module, x: Tensor, tolerance: float) -> None:
    assert found["names"] == [["image"], ["scores"]]
    assert found["absent"] == ["torch", "workbench"]
    with torch.no_grad():
        expected = model(x)["scores"]
    for count, output in zip((1, 5, len(x)), found["outputs"], strict=True):
        assert torch.dist(torch.tensor(output), expected[:count]) <= tolerance * expected[:count].norm()
    assert found["made"]["workbench.class"] == "Net"
    assert found["made"]["workbench.who"] == "a test"


@pytest.mark.parametrize("int8", [False, True])
def test_a_file_serves_alone(int8: bool, tmp_path: Path) -> None:
    model, x = Net().eval(), images(7)
    how = wb.Int8(images(64)) if int8 else None
    path = wb.export_onnx(model, x[:1], tmp_path / "net.onnx", int8=how, made={"who": "a test"}).path
    found = served(sys.executable, path, x, "blocked")
    check(found, model, x, 0.02 if int8 else 1e-5)
    assert ("workbench.int8" in found["made"]) is int8


@pytest.mark.slow
def test_a_file_serves_in_an_environment_of_its_own(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "onnxruntime", "numpy"], check=True)
    model, x = Net().eval(), images(7)
    path = wb.export_onnx(model, x[:1], tmp_path / "net.onnx", int8=wb.Int8(images(64)), made={"who": "a test"}).path
    check(served(python, path, x, "alone"), model, x, 0.02)


def int8(count: int, **options: Any) -> wb.Int8:
    return wb.Int8(images(count), **options)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: int8(1), "the calibration data has 1 samples; 4 are the least"),
        (lambda: int8(8), "the calibration data of int8 has 8 samples; 16 are the least, some hundred a good number"),
        (lambda: int8(64, at_most=0.1, size_bytes=9), r"give at_most= \(of the score\) or size_bytes=, not both"),
        (lambda: int8(64, at_most=-1.0), "at_most=-1.0 must be above 0"),
        (lambda: int8(64, dynamic=True, size_bytes=9), "dynamic=True has no at_most= and no size_bytes="),
    ],
)
def test_what_is_asked_for_is_checked(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def export(tmp_path: Path, model: nn.Module, x: Tensor, **options: Any) -> None:
    wb.export_onnx(model, x, tmp_path / "net.onnx", **options)


def test_what_cannot_be_served_leaves_nothing(tmp_path: Path) -> None:
    """An operation or a precision that the engine lacks, an opset too old, a fixed batch: one sentence each."""
    model, x = Net().eval(), images(2)
    double = nn.Sequential(nn.ConvTranspose1d(2, 2, 3)).double()
    with pytest.raises(wb.Refused, match=r"onnxruntime cannot run the model \(.*NOT_IMPLEMENTED.*ConvTranspose"):
        export(tmp_path, double, torch.zeros(2, 2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="opset=12 has no scale for each channel, which int8 needs; give 13 or more"):
        export(tmp_path, model, x, opset=12, int8=int8(64))
    with pytest.raises(wb.Refused, match=r"PyTorch cannot write the model in opset 6 \(it gave \d+\)"):
        export(tmp_path, model, x, opset=6)
    fixed = Lambda(lambda m, x: m.a(x).reshape(2, 8), a=nn.Linear(4, 4))
    with pytest.raises(wb.Refused, match="int8: the forward fixes the batch"):
        export(tmp_path, fixed, torch.randn(2, 2, 4), int8=wb.Int8(torch.randn(64, 2, 4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("int8_too", [False, True])
def test_a_target_that_cannot_be_written(int8_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at once, before minutes of work."""
    monkeypatch.setattr(writer, "exported", lambda *_: pytest.fail("it was exported first"))
    occupied = tmp_path / "file"
    occupied.write_text("x")
    for path in (occupied / "net.onnx", Path("/proc/net.onnx")):  # which nobody can write, root neither
        with pytest.raises(OSError, match=r"file|proc"):
            wb.export_onnx(Net(), images(1), path, int8=int8(64) if int8_too else None)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
