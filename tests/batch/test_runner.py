"""A batch from the job file to the index page: what is shared, what is kept, what is told, whoever does it."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import workbench as wb
from tests.batch import shop
from tests.batch.jobs import FILES, METHODS, SHOP_JOB, batch, compared, jobs, shell, whole
from workbench import cli
from workbench.artefact import replays
from workbench.batch.dask import dask_executor
from workbench.batch.events import Event
from workbench.batch.jobfile import read_jobs
from workbench.batch.lock import locked
from workbench.batch.runner import Batch
from workbench.batch.work import Work

Done = tuple[Path, pd.DataFrame, list[Event]]
BOTH = {"method": ["brief", "plain"]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two methods, two budgets, one after another."""
    out = tmp_path_factory.mktemp("batch")
    return out, *batch(out, BOTH)


def test_every_run_has_its_folder(done: Done) -> None:
    out, table, _ = done
    assert list(table["run"]) == [f"build-{name}-macs{share}" for name in ("brief", "plain") for share in (0.7, 0.5)]
    assert set(table["state"]) == {"done"}
    for row in table.itertuples():
        folder = Path(row.folder)
        assert {path.name for path in folder.iterdir()} == FILES
        assert row.macs <= float(row.budget.removeprefix("macs="))
        result = json.loads((folder / "result.json").read_text())
        assert result["score"]["after"] == row.after
        assert set(result["run"]["seconds"]) == {"trace", "calibrate", "sensitivity", "apply"}
        small = wb.restore(shop.build(), folder)
        assert replays(small, folder)
    assert not any((out / ".part").iterdir())
    assert not (out / "failed").exists()
    assert (out / ".lock").read_text() == ""


def test_what_is_shared_is_done_once(done: Done) -> None:
    """Two searches, since two modes; the two runs of each share it."""
    _, _, events = done
    kinds = [event["event"] for event in events]
    assert kinds.count("search_started") == kinds.count("search_finished") == 2
    assert kinds.count("run_started") == kinds.count("run_finished") == 4
    assert (kinds[0], kinds[-1]) == ("batch_started", "batch_finished")
    assert all("time" in event for event in events)
    found = [event["search"] for event in events if event["event"] == "run_finished"]
    assert found[0] == found[1] != found[2] == found[3]


def test_events_are_kept(done: Done) -> None:
    out, _, events = done
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert lines == events
    own = [json.loads(line) for line in (out / "build-plain-macs0.5" / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in own]
    assert kinds == ["search_started", "search_finished", "run_started", "planned", "run_finished"]


def test_the_same_as_without_a_batch(done: Done, tmp_path: Path) -> None:
    """One budget of ``measured`` curves: the plan and the weights are those of a study."""
    out, _, _ = done
    study = wb.Study(
        shop.build(), shop.one(), calibration=shop.some(), evaluate=shop.score(), refinement=None,
        name="tests.batch.shop:build",
    )  # fmt: skip
    study.sensitivity("measured", [wb.Budget(macs=0.7), wb.Budget(macs=0.5)])
    study.compress(wb.Budget(macs=0.5)).save(tmp_path)
    kept = json.loads((tmp_path / "plan.json").read_text())["kept"]
    assert json.loads((out / "build-plain-macs0.5" / "plan.json").read_text())["kept"] == kept


def test_evaluations_of_a_method_refine_its_plans(tmp_path: Path) -> None:
    """As ``study.refine`` does, and whatever run of the same search came before."""
    methods = {"plain": METHODS["plain"], "better": {**METHODS["plain"], "evaluations": 9}}
    both = {"methods": methods, "jobs": [{**SHOP_JOB, "budget": "macs=0.5", "method": ["plain", "better"]}]}
    table = wb.batch.run(both, out=tmp_path, progress=False)
    assert set(table["state"]) == {"done"}
    plans = {name: json.loads((tmp_path / f"build-{name}-macs0.5" / "plan.json").read_text()) for name in methods}
    assert plans["plain"]["lost"] is None
    study = wb.Study(shop.build(), shop.one(), calibration=shop.some(), evaluate=shop.score(), refinement=None)
    study.sensitivity("measured", [wb.Budget(macs=0.5)])
    refined = study.refine(wb.Budget(macs=0.5), 9)
    assert plans["better"]["lost"] == pytest.approx(refined.lost, rel=1e-3)  # another number of threads
    assert plans["better"]["kept"] == {name: list(units) for name, units in refined.kept.items()}


def test_nothing_is_done_again(done: Done) -> None:
    out, table, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.glob("build-*/*")}
    again, events = batch(out, BOTH)
    assert [event["event"] for event in events] == ["batch_started", "batch_finished"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("build-*/*")} == before
    pd.testing.assert_frame_equal(again, table)


def test_a_run_that_another_process_has_finished_is_left_alone(done: Done) -> None:
    """By one that was thought to be dead: nothing of the study is asked for."""
    out, told = done[0], io.StringIO()
    task = Batch.plan(read_jobs(jobs(BOTH)), out, resume=False).tasks[0]
    Work(task, told)._run(task.runs[0], None, None)  # type: ignore[arg-type]  # neither is looked at
    event = json.loads(told.getvalue())
    assert (event["event"], event["run"]) == ("run_finished", task.runs[0].name)
    assert event["summary"]["macs"] <= 0.7


def test_workers_and_dask_make_the_same_bytes(done: Done, tmp_path: Path) -> None:
    expected = compared(done[0])
    assert len(expected) == 4 * 6
    batch(tmp_path / "workers", BOTH, workers=2)
    assert compared(tmp_path / "workers") == expected
    with dask_executor("local", 2) as executor:
        _, events = batch(tmp_path / "dask", BOTH, executor=executor)
    assert compared(tmp_path / "dask") == expected
    assert [event["event"] for event in events].count("run_finished") == 4


def test_a_lost_worker_changes_only_time(done: Done, tmp_path: Path) -> None:
    """The one that is in the middle of a search is killed."""
    with dask_executor("local", 2) as executor, ThreadPoolExecutor(1) as beside:
        killed = beside.submit(lose_a_worker, tmp_path)
        _, events = batch(tmp_path, BOTH, executor=executor)
        assert killed.result() > 0
    assert compared(tmp_path) == compared(done[0])
    assert [event["event"] for event in events].count("run_finished") == 4


def lose_a_worker(out: Path) -> int:
    """Kills a worker as soon as its search has something to show for it."""
    psutil = pytest.importorskip("psutil")  # comes with distributed
    while not any(path.stat().st_size > 2000 for path in (out / "searches").glob("*/search.jsonl")):
        time.sleep(0.02)
    (inside, *_) = (p for p in psutil.Process().children(recursive=True) if "workbench.batch.work" in p.cmdline())
    worker = inside.parent()
    worker.kill()
    return int(worker.pid)


def test_two_clusters_of_one_machine_do_not_meet() -> None:
    with dask_executor("local", 1) as one, dask_executor("local", 1) as other:
        assert one.submit(os.getpid).result() != other.submit(os.getpid).result()


def test_a_run_of_the_same_name_that_is_another(done: Done) -> None:
    out, _, _ = done
    with pytest.raises(ValueError, match=r"brief-macs0.7 was made with another refinement: 3 there, 9 here; give the"):
        Batch.plan(read_jobs(jobs(BOTH), ["methods.brief.refinement=9"]), out)
    assert len(Batch.plan(read_jobs(jobs(BOTH), ["defaults.time_limit=9"]), out).tasks) == 0
    assert len(Batch.plan(read_jobs(jobs(BOTH)), out, resume=False).tasks) == 2


def test_something_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "build-brief-macs0.7").mkdir()
    with pytest.raises(ValueError, match=r"build-brief-macs0.7 is in the way: it is no run of a batch; move it"):
        batch(tmp_path)


class Outline(HTMLParser):
    """What a page holds and asks for."""

    def __init__(self, page: str):
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("href", "src")]


def test_the_index_page_leads_to_every_report_and_asks_for_nothing_else(done: Done) -> None:
    out, table, _ = done
    page = (out / "index.html").read_text()
    outline = Outline(page)
    assert outline.links == [f"{name}/report.html" for name in table["run"]]
    assert all((out / link).is_file() for link in outline.links)
    assert not {"link", "img", "iframe"} & set(outline.tags)
    assert "default-src 'none'" in page.replace("&#39;", "'")
    assert page.count("<!--run-->") == page.count("<!--/run-->") == 1


def test_the_file_of_comma_separated_values(done: Done) -> None:
    out, table, _ = done
    found = pd.read_csv(out / "runs.csv")
    assert list(found["run"]) == list(table["run"])
    assert list(found["macs"]) == pytest.approx(list(table["macs"]))


def test_dry_run_shows_what_is_left(tmp_path: Path, done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text('[[jobs]]\nmodel = ["vgg", "vit"]\nbudget = ["macs=0.5", "params=0.4"]\nmemory_limit = "2GB"\n')
    assert cli.main(["batch", str(file), "--out", str(tmp_path / "out"), "--dry-run"]) == cli.DONE
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("4 runs into ")
    assert [line.split()[0] for line in told[1:]] == [
        "search", "vgg-elimination-macs0.5", "vgg-elimination-params0.4", "search", "vit-elimination-macs0.5",
        "vit-elimination-params0.4",
    ]  # fmt: skip
    assert told[1].endswith("any time, at most 2,000 MB")
    assert not (tmp_path / "out").exists()
    left = Batch.plan(read_jobs(jobs({"method": ["brief", "plain"], "budget": ["macs=0.7", "macs=0.6"]})), done[0])
    names = [[run.name for run in task.runs] for task in left.tasks]
    assert names == [["build-brief-macs0.6"], ["build-plain-macs0.6"]]
    assert "2 are finished" in left.told()
    shares = [[budget["macs"] for budget in task.budgets] for task in left.tasks]
    assert shares == [[0.7, 0.6]] * 2  # a search goes on as it began, for finished runs too


def test_a_lock_says_whose_it_is(tmp_path: Path) -> None:
    with locked(tmp_path) as stale:
        assert stale == ""
        told = rf"is in use by process {os.getpid()} of .* on .*, since .*; wait for it"
        with pytest.raises(ValueError, match=told), locked(tmp_path):
            pass
    with locked(tmp_path) as stale:
        assert stale == ""


def test_a_stale_lock_is_recognised(tmp_path: Path) -> None:
    owner = {"pid": 4711, "host": socket.gethostname(), "user": "ada", "since": "yesterday"}
    (tmp_path / ".lock").write_text(json.dumps(owner))
    with locked(tmp_path) as stale:
        assert stale == f"a lock of process 4711 of ada on {socket.gethostname()}, since yesterday was stale"
    (tmp_path / ".lock").write_text(json.dumps({**owner, "host": "elsewhere"}))
    told = r"process 4711 of ada on elsewhere, since yesterday; if that is gone, delete"
    with pytest.raises(ValueError, match=told), locked(tmp_path):
        pass


def test_a_shell(tmp_path: Path) -> None:
    file = tmp_path / "jobs.json.toml"
    lines = [f'{key} = "{value}"' for key, value in jobs()["jobs"][0].items() if isinstance(value, str)]
    lines = ["[methods.brief]", "refinement = 0", "mode = 'predicted'", "[[jobs]]", "budget = 'macs=0.5'", *lines]
    file.write_text("\n".join(lines))
    process = shell("batch", file, "--out", tmp_path / "out", "--quiet")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (cli.DONE, "")
    *table, page = out.splitlines()
    assert table[1].startswith("build-brief-macs0.5")
    assert Path(page).is_file()
    assert whole(tmp_path / "out")
