"""What is done with the runs of a batch: listed, compared, cleaned up; and told to trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.batch.jobs import SHOP, batch
from workbench import cli
from workbench.batch.events import Event
from workbench.batch.lock import locked
from workbench.batch.table import COLUMNS, FAILED, to_csv
from workbench.batch.trackers import MLflow, TensorBoard, WandB

NAMES = ["build-quick-macs0.5", "build-quick-macs0.7"]
Made = tuple[Path, list[Event]]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two runs, and one that failed."""
    out = tmp_path_factory.mktemp("tools")
    quick = {"method": "quick"}
    _, events = batch(out, quick, {**quick, "name": "bad", "model": f"{SHOP}:nowhere", "budget": "macs=0.5"})
    return out, events


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: Any) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_list(made: Made, command: Command) -> None:
    code, out, _ = command("list", made[0], "--json")
    rows = json.loads(out)
    assert code == cli.DONE
    assert [row["run"] for row in rows] == [*NAMES, "bad-nowhere-quick-macs0.5"]
    assert list(rows[0]) == list(COLUMNS)
    text = command("list", made[0])[1].splitlines()
    assert text[1].startswith(NAMES[0])
    assert text[-2].startswith("FAILED bad-nowhere-quick-macs0.5: ")
    assert command("list", made[0] / "nowhere")[0] == cli.USAGE


def test_compare(made: Made, command: Command) -> None:
    out, _ = made
    code, text, _ = command("compare", *(out / name for name in NAMES), "--json")
    found = json.loads(text)
    assert code == cli.DONE
    assert list(found) == NAMES
    small, large = (found[name] for name in NAMES)
    assert small["macs"] <= 0.5 < large["macs"] <= 0.7
    shares = [key for key in small if key.startswith("kept of ")]
    assert shares
    assert all(0 < small[key] <= 1 for key in shares)
    assert command("compare", out / NAMES[0])[1].splitlines()[0].split() == [NAMES[0]]
    code, _, err = command("compare", out / "failed")
    assert code == cli.USAGE
    assert f"{out / 'failed'} is no finished run of a batch; workbench list {out} shows them" in err


def test_clean(made: Made, command: Command, tmp_path: Path) -> None:
    """In a folder of its own: what is left over goes, and nothing else, not through a link either."""
    out, treasure = tmp_path / "out", tmp_path / "treasure"
    treasure.mkdir()
    for path in made[0].rglob("*"):
        if path.is_file():
            (out / path.relative_to(made[0])).parent.mkdir(parents=True, exist_ok=True)
            (out / path.relative_to(made[0])).write_bytes(path.read_bytes())
    (out / ".part" / "half").mkdir(parents=True)
    (out / ".part" / "link").symlink_to(treasure)
    (out / "searches" / "link").symlink_to(treasure)
    planned = command("clean", out, "--dry-run")[1].splitlines()
    assert planned == [str(out / ".part" / "half"), str(out / "failed" / "bad-nowhere-quick-macs0.5")]
    assert all(Path(path).exists() for path in planned)
    with locked(out):
        assert "is in use by process" in command("clean", out)[2]
    assert command("clean", out)[1].splitlines() == planned
    assert not any(Path(path).exists() for path in planned)
    assert command("clean", out)[1] == "nothing to remove\n"
    assert command("clean", out, "--run", "../treasure")[0] == cli.USAGE
    removed = json.loads(command("clean", out, "--searches", "--run", NAMES[0], "--json")[1])
    assert removed[-1] == str(out / NAMES[0])
    assert len(removed) == 3
    assert treasure.exists()
    assert (out / NAMES[1] / "plan.json").exists()
    code, _, err = command("clean", treasure)
    assert (code, "is no folder of a batch" in err) == (cli.USAGE, True)


def test_a_table_is_no_formula() -> None:
    row = dict.fromkeys(COLUMNS) | {"run": "=1+1", "state": FAILED, "reason": "@SUM(A1), \"b\"\nc", "difference": -0.5}
    lines = to_csv([row])
    assert "'=1+1,failed" in lines
    assert "-0.5" in lines
    assert "\"'@SUM(A1), \"\"b\"\"\nc\"" in lines


def told(tracker: Callable[[Event], None], events: list[Event]) -> None:
    for event in events:
        tracker(event)


def test_mlflow(made: Made) -> None:
    mlflow = MagicMock()
    told(MLflow(mlflow), made[1])
    begun = [call.kwargs["run_name"] for call in mlflow.start_run.mock_calls]
    assert sorted(begun) == ["bad-nowhere-quick-macs0.5", *NAMES]
    assert sorted(call.args[0] for call in mlflow.end_run.mock_calls) == ["FAILED", "FINISHED", "FINISHED"]
    (metrics, _) = (call.args[0] for call in mlflow.log_metrics.mock_calls)
    assert metrics["target_met"] == 1.0
    assert all(isinstance(value, float) for value in metrics.values())
    assert all(call.args[0]["criterion"] == "elimination" for call in mlflow.log_params.mock_calls)


def test_tensorboard(made: Made) -> None:
    writer = MagicMock()
    told(TensorBoard(writer), made[1])
    calls = [*writer.add_scalar.mock_calls, *writer.add_text.mock_calls]
    assert {call.args[2] for call in calls} == {0, 1, 2}
    assert f"{NAMES[0]}/macs" in {call.args[0] for call in writer.add_scalar.mock_calls}
    assert writer.flush.call_count == 3


def test_weights_and_biases(made: Made) -> None:
    wandb = MagicMock()
    told(WandB(wandb, project="night"), made[1])
    assert {call.kwargs["name"] for call in wandb.init.mock_calls if "name" in call.kwargs} >= set(NAMES)
    assert all(call.kwargs["project"] == "night" for call in wandb.init.call_args_list)
    assert sorted(call.kwargs["exit_code"] for call in wandb.init.return_value.finish.mock_calls) == [0, 0, 1]
    assert wandb.init.return_value.log.call_count == 2
