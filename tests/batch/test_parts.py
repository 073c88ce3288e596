"""From a run's words to a study: built-in and own models and data, compressed models, what cannot be found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from tests.batch import shop
from tests.batch.jobs import SHOP, batch, jobs
from workbench.batch.jobfile import read_jobs
from workbench.batch.parts import named, study_of
from workbench.batch.runner import Batch
from workbench.batch.runs import Run
from workbench.evaluation import Evaluation, Fidelity
from workbench.zoo import task


def study(tmp_path: Path, model: str = "vgg", **fields: Any) -> wb.Study:
    return study_of(Run("run", model, {"macs": 0.5}, **fields), tmp_path, tmp_path / "store")


def test_a_network_of_the_zoo_is_that_of_the_command_line(small_zoo: None, tmp_path: Path) -> None:
    ours, theirs = study(tmp_path, seed=3, criterion="l2"), task.study("vgg")
    assert (ours.name, ours.seed, type(ours.criterion).__name__) == ("vgg", 3, "L2")
    assert ours.graph.fingerprint == theirs.graph.fingerprint
    assert ours.calibration.fingerprint == theirs.calibration.fingerprint
    assert isinstance(ours.evaluate, Evaluation)
    assert isinstance(ours.test, Evaluation)
    assert (ours.evaluate.name, ours.test.name) == ("log-likelihood", "test accuracy")


def test_own_scores_of_all_kinds(small_zoo: None, tmp_path: Path) -> None:
    """The name of a fidelity, a function that takes the model, one that makes an evaluation."""
    found = study(tmp_path, evaluate="top1", test=f"{SHOP}:plain")
    assert isinstance(found.evaluate, Fidelity)
    assert found.evaluate.kind == "top1"
    assert found.test is shop.plain
    made = study(tmp_path, evaluate=f"{SHOP}:score").evaluate
    assert isinstance(made, Evaluation)
    assert made.name == "nearness"


def test_an_own_network_is_compared_with_itself_by_default(tmp_path: Path) -> None:
    found = study(tmp_path, f"{SHOP}:build", inputs=f"{SHOP}:one", calibration=f"{SHOP}:some")
    assert isinstance(found.model, shop.Net)
    assert isinstance(found.evaluate, Fidelity)
    assert found.test is found.evaluate
    assert found.calibration.samples == 96


def test_a_compressed_model_is_compressed_again(small_zoo: None, tmp_path: Path) -> None:
    before = task.study("vgg", refinement=None)
    result = before.compress(before.allocate(wb.Budget(macs=0.8), mode="predicted"))
    result.save(tmp_path / "once")
    found = study(tmp_path, "./once")
    assert found.graph.cost().macs == result.cost.macs
    assert found.name == "./once"
    assert isinstance(found.test, Evaluation)


def test_a_compressed_own_model_needs_its_architecture(tmp_path: Path) -> None:
    parts = {"inputs": f"{SHOP}:one", "calibration": f"{SHOP}:some"}
    own = study(tmp_path, f"{SHOP}:build", **parts)
    own.refinement = None
    result = own.compress(own.allocate(wb.Budget(macs=0.8), mode="predicted"))
    result.save(tmp_path / "once")
    again = study(tmp_path, "./once", architecture=f"{SHOP}:build", **parts)
    assert sum(p.numel() for p in again.model.parameters()) == result.cost.params
    with pytest.raises(ValueError, match=rf"once holds a compressed '{SHOP}:build'; give architecture ="):
        study(tmp_path, "./once", **parts)
    with pytest.raises(ValueError, match=r"nowhere holds no compressed model"):
        study(tmp_path, "./nowhere", **parts)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no.such:thing", r'"no.such:thing" cannot be imported \(No module named \'no\'\); install it, or name the'),
        (f"{SHOP}:buidl", rf'"{SHOP}:buidl" leads nowhere: {SHOP} has no buidl; look at its spelling'),
        (f"{SHOP}:build.x.y", rf"leads nowhere: {SHOP} has no x"),
    ],
)
def test_names_that_lead_nowhere(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        named(text)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one\" returned a Tensor; it must return a torch.nn.Module"):
        study(tmp_path, f"{SHOP}:one", inputs=f"{SHOP}:one", calibration=f"{SHOP}:some")


def test_the_folder_of_a_job_file_is_searched_only_where_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "jobs.toml").write_text('[[jobs]]\nmodel = "vgg"\nbudget = "macs=0.5"\n')
    (plain,) = Batch.plan(read_jobs(tmp_path / "jobs.toml"), tmp_path / "out").tasks
    assert str(tmp_path) not in plain.paths
    assert set(plain.paths) == {str(Path(path).resolve()) for path in sys.path}
    (tmp_path / "jobs.toml").write_text('import_from = "."\n[[jobs]]\nmodel = "vgg"\nbudget = "macs=0.5"\n')
    (told,) = Batch.plan(read_jobs(tmp_path / "jobs.toml"), tmp_path / "out").tasks
    assert told.paths[0] == str(tmp_path.resolve())


def test_a_module_beside_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "corner.py").write_text("from tests.batch.shop import build\n")
    change = {"model": "corner:build", "method": "quick", "budget": "macs=0.5"}
    table, _ = batch(tmp_path / "out", change)
    assert list(table["state"]) == ["failed"]
    assert "cannot be imported (No module named 'corner')" in table["reason"][0]
    again = wb.batch.run({**jobs(change), "import_from": str(tmp_path)}, out=tmp_path / "out", progress=False)
    assert list(again["state"]) == ["done"]
