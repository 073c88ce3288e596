"""The command line as a shell sees it: texts, streams, exit codes, and one clear sentence for each bad input."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import workbench as wb
from workbench import artefact, cli
from workbench.select import BY_NAME

GOLDEN = Path(__file__).parent / "golden" / "cli"
COMMANDS = ("", "demo", "sensitivity", "compress", "batch", "list", "compare", "clean", "report", "restore", "export")
FILES = {"plan.json", "weights.safetensors", "reference.safetensors", "report.html", "result.json"}
SUMMARY = {
    "model", "macs_ratio", "params_ratio", "activation_bytes_ratio", "size_bytes_ratio", "score", "score_before",
    "score_after", "predicted_loss", "real_loss", "target_met", "verified", "report",
}  # fmt: skip

Capture = pytest.CaptureFixture[str]


def shell(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "workbench.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def said(capture: Capture) -> str:
    """The one sentence on stderr; fails where stdout holds anything, or stderr holds more."""
    out, err = capture.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("workbench: ")
    return line.removeprefix("workbench: ")


def test_methods_lower_ranks(small_zoo: None, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["compress", "--model", "vgg", "--budget", "macs=0.6", "--mode", "predicted", "--refinement", "0"]
    arguments += ["--methods", "spatial_svd,weight_svd", "--out", str(tmp_path), "--quiet"]
    assert cli.main(arguments) == cli.DONE
    capsys.readouterr()
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["ranks"]
    assert not plan["kept"]
    assert cli.main([*arguments, "--methods", "svd"]) == cli.USAGE
    assert said(capsys) == (
        "there is no method 'svd'; choose from channels, spatial_svd, weight_svd, tucker"
    )


@pytest.fixture
def compressed(small_zoo: None, tmp_path: Path, capsys: Capture) -> Path:
    """A folder that ``compress`` wrote."""
    folder = tmp_path / "compressed"
    arguments = ["compress", "--model", "vgg", "--budget", "macs=0.5", "--out", str(folder), "--quiet"]
    assert cli.main(arguments) == cli.DONE
    capsys.readouterr()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_the_golden_text(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    golden = GOLDEN / f"{command or 'workbench'}.txt"
    if request.config.getoption("--overwrite"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert stopped.value.code == 0
    assert text == golden.read_text()


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, workbench.cli as cli\ntry: cli.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "workbench.cli" in modules
    assert not modules & {"torch", "numpy", "scipy", "pandas", "safetensors"}


def test_no_command_prints_the_help_and_is_wrong_usage(capsys: Capture) -> None:
    assert cli.main([]) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "demo" in err


def test_compress_prints_a_table_and_the_path_of_the_report(small_zoo: None, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["demo", "--out", str(tmp_path), "--quiet"]) == cli.DONE
    out, err = capsys.readouterr()
    assert err == "workbench: vgg under Budget(macs=0.5, multiple=1)\n"
    *table, verdict, report = out.splitlines()
    assert [line.split()[0] for line in table] == ["vgg", "MACs", "parameters", "test", "loss"]
    assert re.fullmatch(r"loss of log-likelihood -?\d.\d{4}, predicted \d.\d{4}", table[-1])
    assert verdict.startswith("target met, Verification(ok")
    assert Path(report).read_text().startswith("<!doctype html>")
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_json_stands_alone_on_stdout_and_bars_on_stderr(small_zoo: None, tmp_path: Path, capfd: Any) -> None:
    assert cli.main(["demo", "--json", "--out", str(tmp_path)]) == cli.DONE
    out, err = capfd.readouterr()
    summary = json.loads(out)
    assert set(summary) == SUMMARY
    stored = json.loads((tmp_path / "result.json").read_text())
    assert summary["macs_ratio"] == stored["cost"]["ratio"]["macs"] <= 0.5
    assert (summary["score_before"], summary["score_after"]) == (stored["score"]["before"], stored["score"]["after"])
    assert summary["predicted_loss"] == stored["predicted_degradation"]
    assert summary["real_loss"] == pytest.approx(-stored["searched"]["difference"])
    for bar in ("calibrate", "select", "sensitivity"):
        assert bar in err


def test_sensitivity(small_zoo: None, capsys: Capture) -> None:
    assert cli.main(["sensitivity", "--model", "vgg", "--quiet", "--json"]) == cli.DONE
    curves = json.loads(capsys.readouterr().out)
    assert curves["metric"] == "log-likelihood"
    assert cli.main(["sensitivity", "--model", "vgg", "--quiet"]) == cli.DONE
    table = capsys.readouterr().out
    assert all(group["group"] in table for group in curves["groups"])


def test_another_criterion_gives_other_curves(small_zoo: None, capsys: Capture) -> None:
    """Every name of the help is a criterion, and it is the one that is used."""
    (text,) = re.findall(r"selected: (.*?), random", " ".join(_help("sensitivity", capsys).split()))
    names = [*text.replace(" (default)", "").split(", "), "random"]
    assert names == [*BY_NAME]
    curves = set()
    for name in ("elimination", "l1", "random"):
        assert cli.main(["sensitivity", "--model", "vgg", "--criterion", name, "--json", "--quiet"]) == cli.DONE
        curves.add(json.dumps([group["points"] for group in json.loads(capsys.readouterr().out)["groups"]]))
    assert len(curves) == 3


def _help(command: str, capsys: Capture) -> str:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return capsys.readouterr().out


def test_report_is_written_again(compressed: Path, tmp_path: Path, capsys: Capture) -> None:
    first = (compressed / "report.html").read_text()
    (compressed / "report.html").unlink()
    assert cli.main(["report", str(compressed)]) == cli.DONE
    assert capsys.readouterr().out == f"{compressed / 'report.html'}\n"
    assert (compressed / "report.html").read_text() == first
    other = tmp_path / "new" / "other.html"
    assert cli.main(["report", str(compressed / "result.json"), "--out", str(other), "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == {"report": str(other)}
    assert other.read_text() == first


def test_restore_verifies(compressed: Path, capsys: Capture) -> None:
    assert cli.main(["restore", str(compressed), "--verify", "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    stored = json.loads((compressed / "result.json").read_text())
    assert found == {"model": "vgg", "macs": stored["cost"]["after"]["macs"], "bit_equal": True}
    assert cli.main(["restore", str(compressed), "--verify"]) == cli.DONE
    assert "bit for bit" in capsys.readouterr().out
    assert cli.main(["restore", str(compressed)]) == cli.DONE
    assert "bit for bit" not in capsys.readouterr().out


def test_a_network_of_ones_own_is_restored_in_python(compressed: Path, capsys: Capture) -> None:
    plan = json.loads((compressed / "plan.json").read_text())
    (compressed / "plan.json").write_text(json.dumps(plan | {"name": "Net"}))
    for command in (["restore"], ["export", "--onnx", "net.onnx"]):
        assert cli.main([command[0], str(compressed), *command[1:]]) == cli.USAGE
        assert "was made of Net, which is no network of the zoo; in Python, wb.restore(" in capsys.readouterr().err


def test_python_dash_m() -> None:
    told = subprocess.run([sys.executable, "-m", "workbench", "--help"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage: workbench ")


def test_restore_sees_a_changed_weight(compressed: Path, capsys: Capture) -> None:
    weights = load_file(compressed / artefact.WEIGHTS)
    weights["classifier.2.bias"][0] += 1e-3
    artefact.save_file(weights, compressed / artefact.WEIGHTS)
    assert cli.main(["restore", str(compressed), "--verify"]) == cli.FAILED
    assert "NOT reproduced" in capsys.readouterr().out


def test_export(compressed: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "small.onnx", tmp_path / "small.pt2"]
    arguments = ["export", str(compressed), "--onnx", str(files[0]), "--pt2", str(files[1])]
    assert cli.main([*arguments, "--json"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in found] == [str(file) for file in files]
    assert all(one["any_batch"] and one["worst"] < 1e-4 and one["bytes"] > 1000 for one in found)
    assert cli.main(arguments) == cli.DONE
    assert capsys.readouterr().out.count("any batch, within ") == 2
    assert cli.main([*arguments[:4], "--int8", "--json"]) == cli.DONE
    (one,) = json.loads(capsys.readouterr().out)
    assert one["bytes"] < found[0]["bytes"]
    assert one["int8"]["score"] == "test accuracy"
    assert list(one["int8"]["scores"]) == ["original", "float", "int8"]
    assert one["int8"]["error"] < 0.1
    monkeypatch.setattr("workbench.extras.ONNX", ("onnx_of_another_world",))
    assert cli.main(arguments) == cli.FAILED
    assert said(capsys) == "ONNX needs onnx_of_another_world; pip install 'workbench[onnx]'"


def compress(budget: str, model: str = "vgg", out: str = "out") -> list[str]:
    return ["compress", "--model", model, "--budget", budget, "--out", out, "--quiet"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (compress("macs=0.5", model="lenet"), "the zoo has no network 'lenet'; choose one of vgg, resnet20"),
        (
            ["sensitivity", "--model", "vgg", "--criterion", "obs"],
            "there is no criterion 'obs'; choose from elimination, lasso",
        ),
        (["demo", "--model", "lenet"], "the zoo has no network 'lenet'; choose one of vgg, resnet20"),
        (["sensitivity", "--model", "lenet"], "the zoo has no network 'lenet'; choose one of vgg, resnet20"),
        (["export", "."], "name a file to write: --onnx FILE, --pt2 FILE, or both"),
        (["export", ".", "--pt2", "x.pt2", "--int8"], "--int8 is of an ONNX file; name one: --onnx FILE"),
        (["export", ".", "--onnx", "x.onnx"], ". holds no compressed model: there is no plan.json in it"),
        (compress("macs=0"), "the budget macs=0.0 is not a share of the original; give a number above 0 and at most 1"),
        (compress("macs=1.5"), "the budget macs=1.5 is not a share of the original"),
        (compress("macs=-1"), "the budget macs=-1.0 is not a share of the original"),
        (compress("macs=nan"), "the budget macs=nan is not a share of the original"),
        (compress("macs=abc"), "the budget 'macs=abc' has no number after '='; try macs=0.5"),
        (
            compress("0"),
            "the budget '0' is not NAME=NUMBER with a name of macs, params, activation_bytes, size_bytes, latency_ms, "
            "multiple; try macs=0.5",
        ),
        (compress("abc"), "the budget 'abc' is not NAME=NUMBER"),
        (compress("flops=0.5"), "the budget 'flops=0.5' is not NAME=NUMBER"),
        (compress("multiple=8"), "the budget names nothing; give a share of at least one of macs, params"),
        (compress("macs=0.5,multiple=0"), "the budget's multiple is 0; it must be a whole number, 1 or more"),
        (compress("macs=0.5", out="file"), "file: File exists"),
        (["report", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["report", "file"], "file is damaged (Expecting value: line 1 column 1 (char 0)); name another, or compress"),
        (["report", "wrong.json"], "the result has no"),
        (["restore", "nowhere"], "nowhere holds no compressed model: there is no plan.json in it"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, small_zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no JSON")
    Path("wrong.json").write_text("{}")
    assert cli.main(arguments) == cli.USAGE
    assert said(capsys).startswith(sentence)
    assert not Path("out").exists()


IMAGES = torch.rand(8, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"calibration": []}, "the calibration data is empty; it must yield at least one batch"),
        (
            {"calibration": iter([IMAGES])},
            "the calibration data is a generator that can be read only once; give a list",
        ),
        ({"calibration": IMAGES[:1]}, "the calibration data has 1 samples; 4 are the least"),
        ({"evaluate": lambda model: math.nan}, "the evaluation '<lambda>' returned nan for the original model"),
        (
            {"evaluate": wb.Evaluation([IMAGES], lambda output, batch: output[:, 0] / 0, name="ratio")},
            "the evaluation 'ratio' returned",
        ),
        ({"evaluate": wb.Evaluation([], lambda output, batch: output[:, 0])}, "the evaluation 'score' has no data"),
        ({"budget": wb.Budget(macs=1e-4)}, "the budget of 0 macs is out of reach: the smallest reachable"),
    ],
)
def test_bad_input_of_the_library_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    given = {"calibration": IMAGES, "budget": wb.Budget(macs=0.5)} | options
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}[^\n]*$"):
        wb.compress(model, IMAGES, **given)


def test_unreachable_budget_names_the_smallest_cost(small_zoo: None, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(compress("macs=0.0001", out=str(tmp_path))) == cli.USAGE
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if "under Budget" not in line]
    assert out == ""
    assert "macs" in line
    assert "smallest reachable" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["bend"], ["compress", "--model", "vgg"], ["demo", "--seed", "one"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = shell(*arguments)
    assert done.returncode == cli.USAGE
    assert done.stdout == ""
    assert "error: " in done.stderr.splitlines()[-1]


def test_missed_target_is_a_failure(small_zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.result.Result.target_met", False)
    assert cli.main(["demo", "--out", str(tmp_path), "--quiet"]) == cli.FAILED


def test_refusal_is_a_failure(small_zoo: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise wb.Refused("aten.roll", "blocks.0", "its order is lost", "leave the group whole")

    monkeypatch.setattr("workbench.study.Study.sensitivity", refuse)
    assert cli.main(["sensitivity", "--model", "vgg"]) == cli.FAILED
    assert said(capsys) == "aten.roll in blocks.0: its order is lost; leave the group whole"


def test_interrupt(tmp_path: Path) -> None:
    # a shell starts background jobs with SIGINT ignored, and children inherit that
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from workbench.cli import main; sys.exit(main(['demo', '--out', {str(tmp_path)!r}]))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stderr is not None
        os.set_blocking(running.stderr.fileno(), False)
        _wait(lambda: b"calibrate" in (running.stderr.read() or b""))  # type: ignore[union-attr]  # not None, see above
        running.send_signal(signal.SIGINT)
        os.set_blocking(running.stderr.fileno(), True)
        out, err = running.communicate(timeout=60)
    assert running.returncode == cli.INTERRUPTED
    assert out == b""
    assert err.splitlines()[-1].endswith(b"workbench: interrupted")
    assert list(tmp_path.iterdir()) == []


def _wait(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the progress bar did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "loss"), [("vgg", 0.007), ("resnet20", 0.005), ("vit", 0.01)])
def test_half_of_a_shipped_network(model: str, loss: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = shell("compress", "--model", model, "--budget", "macs=0.5", "--out", str(out), "--json", seconds=900)
    assert done.returncode == cli.DONE, done.stderr
    summary = json.loads(done.stdout)
    assert summary["macs_ratio"] <= 0.5
    assert summary["target_met"]
    assert summary["verified"]
    assert json.loads((out / "result.json").read_text())["score"]["samples"] == 10_000
    assert summary["score_before"] - summary["score_after"] <= loss
    assert shell("restore", str(out), "--verify").returncode == cli.DONE


def test_limits_and_budgets_of_bytes(small_zoo: None, tmp_path: Path, capsys: Capture) -> None:
    budget = "size_bytes=0.6,activation_bytes=0.9,multiple:linear=4"
    limits = ["--keep", "features.0", "--tie", "features.7,features.10", "--minimum", "conv2d=0.3", "--forbid", "*=7"]
    arguments = ["compress", "--model", "vgg", "--budget", budget, *limits, "--out", str(tmp_path), "--quiet"]
    assert cli.main(arguments) == cli.DONE
    table = capsys.readouterr().out
    assert re.search(r"^size, B .* 0\.[2-5]\d\d$", table, re.MULTILINE)
    assert re.search(r"^activations, B ", table, re.MULTILINE)
    plan = json.loads((tmp_path / "plan.json").read_text())
    widths = {name: len(units) for name, units in plan["kept"].items()}
    assert widths["features.0"] == plan["units"]["features.0"]
    assert widths["features.7"] == widths["features.10"]
    assert 7 not in widths.values()
    assert plan["limits"]["keep"] == ["features.0"]


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--keep", "features.1"], "nearest are features.1"), (["--pin", "x"], "'x' is not NAME=NUMBER; try conv1=32")],
)
def test_wrong_limits_are_one_sentence(small_zoo: None, tmp_path: Path, capfd: Any, option: Any, words: str) -> None:
    arguments = ["compress", "--model", "vgg", "--budget", "macs=0.5", *option, "--out", str(tmp_path), "--quiet"]
    assert cli.main(arguments) == cli.USAGE
    assert words in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("methods", ["channels", "channels,spatial_svd"])
def test_milliseconds_are_predicted_and_measured(
    small_zoo: None, tmp_path: Path, capsys: Capture, methods: str
) -> None:
    """Whether so small a network meets the budget in earnest is up to the machine; what was predicted is not."""
    store = tmp_path / "store"
    arguments = ["compress", "--model", "vgg", "--budget", "latency_ms=0.98", "--store", str(store), "--quiet"]
    arguments += ["--methods", methods, "--json", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) in (cli.DONE, cli.FAILED)
    summary = json.loads(capsys.readouterr().out)
    (kept,) = (store / "latency").glob("latency-*.json")
    table = wb.LatencyTable.from_dict(json.loads(kept.read_text()))
    assert ",".join(table.place["methods"]) == methods
    assert summary["predicted_latency_ms"] <= 0.98 * table.at({})
    assert summary["latency_ms"] > 0
    assert "data-test=latency" in (tmp_path / "out" / "report.html").read_text().replace('"', "")


def test_a_reader_that_has_seen_enough() -> None:
    command = [sys.executable, "-m", "workbench.cli", "batch", "--schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
