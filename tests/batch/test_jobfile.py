"""Job files: every fault at once, each with a sentence a newcomer can act on; what a good one says; nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from workbench import cli
from workbench.batch import schema
from workbench.batch.jobfile import read_jobs
from workbench.batch.runs import Run, runs_of
from workbench.batch.schema import BadJobs
from workbench.methods import Methods
from workbench.select import BY_NAME
from workbench.sensitivity import MODES
from workbench.textfile import LARGEST

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "jobs"
BAD = sorted((TESTS / "jobs" / "bad").glob("*.toml"))
NIGHTLY = TESTS.parent / "examples" / "nightly.toml"
JOB = {"model": "vgg", "budget": "macs=0.5"}


def faults(*jobs: dict[str, Any], **tables: Any) -> tuple[str, ...]:
    with pytest.raises(BadJobs) as stopped:
        runs_of(read_jobs({"jobs": list(jobs), **tables}))
    return stopped.value.faults


def runs(*jobs: dict[str, Any], overrides: tuple[str, ...] = (), **tables: Any) -> list[Run]:
    return runs_of(read_jobs({"jobs": list(jobs), **tables}, overrides))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_broken_file_is_told_what_to_mend(
    path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    assert cli.main(["batch", path.name, "--check"]) == cli.USAGE
    out, err = capsys.readouterr()
    golden = GOLDEN / f"{path.stem}.txt"
    if request.config.getoption("--overwrite"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(err)
    assert out == ""
    assert all(line.isprintable() and len(line) < 400 for line in err.splitlines())
    assert err == golden.read_text()


def test_there_are_fifty_broken_files_and_no_text_without_one() -> None:
    assert len(BAD) >= 50
    assert {path.stem for path in GOLDEN.iterdir()} == {path.stem for path in BAD}


def test_a_check_takes_less_than_a_second_and_no_torch() -> None:
    code = (
        "import sys, time\nimport workbench.cli as cli\n"
        f"assert cli.main(['batch', {str(NIGHTLY)!r}, '--check', '--json']) == 0\n"
        "print(time.process_time(), *sys.modules)"  # of the processor: others may be busy
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, after = done.stdout.splitlines()
    seconds, *modules = after.split()
    assert json.loads(told) == {"jobs": 1, "runs": 24, "searches": 4}
    assert not {"torch", "scipy", "pandas", "jinja2"} & set(modules)
    assert float(seconds) < 1


def test_names_that_stand_for_what_would_import_torch() -> None:
    assert tuple(BY_NAME) == schema.CRITERIA
    assert MODES == schema.MODES
    assert tuple(asdict(Methods())) == schema.METHODS


def test_a_job_makes_every_combination() -> None:
    found = runs(
        {"model": ["vgg", "vit"], "budget": ["macs=0.5", {"params": 0.4}], "method": ["l2", "short"],
         "multiple": [1, 8], "seed": [0, 3]},
        methods={"short": {"refinement": 7}},
    )  # fmt: skip
    assert len({run.name for run in found}) == len(found) == 32
    last = found[-1]
    assert last.name == "vit-short-params0.4-multiple8-seed3"
    assert (last.model, last.criterion, last.refinement, last.seed) == ("vit", "elimination", 7, 3)
    assert last.budget == {"params": 0.4, "multiple": 8}


def test_a_name_does_not_hang_on_what_else_is_asked_for() -> None:
    (alone,) = runs(JOB)
    assert alone in runs({**JOB, "budget": ["macs=0.5", "macs=0.3"], "seed": [0, 1]})


def test_defaults_hold_where_a_job_says_nothing() -> None:
    first, second = runs(
        {"model": "vgg"}, {"model": "vit", "seed": 2, "time_limit": 5},
        defaults={"budget": "macs=0.5", "seed": 1, "time_limit": "2h", "memory_limit": "4GB"},
    )  # fmt: skip
    assert (first.seed, first.time_limit, first.memory_limit) == (1, 7200, 4e9)
    assert (second.seed, second.time_limit, second.memory_limit) == (2, 5, 4e9)


def test_runs_share_a_search_where_only_budget_and_repair_differ() -> None:
    methods = {"short": {"refinement": 7}, "other": {"criterion": "l2"}, "all": {"mode": "measured"}}
    found = runs({**JOB, "budget": ["macs=0.5", "macs=0.3"], "method": ["elimination", *methods]}, methods=methods)
    by_method = {run.method: run.search for run in found}
    assert by_method["elimination"] == by_method["short"]
    assert len(set(by_method.values())) == 3
    assert len({run.search for run in runs({**JOB, "seed": [0, 1]})}) == 2


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("defaults.seed=4", "seed", 4), ("jobs.0.seed=4", "seed", 4), ("jobs.night.seed = 4", "seed", 4),
        ("jobs.0.budget=macs=0.25", "budget", {"macs": 0.25, "multiple": 1}),
        ("jobs.0.budget={params=0.25}", "budget", {"params": 0.25, "multiple": 1}),
        ("methods.short.refinement=9", "refinement", 9), ("defaults.time_limit=2m", "time_limit", 120),
    ],
)  # fmt: skip
def test_set(override: str, field: str, value: Any) -> None:
    (run,) = runs({**JOB, "name": "night", "method": "short"}, overrides=(override,), methods={"short": {}})
    assert getattr(run, field) == value


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "is not NAME.NAME=VALUE"), ("=3", "is not NAME.NAME=VALUE"), ("jobs.1.seed=3", "there is no job 1"),
        ("jobs.nihgt.seed=3", 'did you mean "night"?'), ("jobs.0.sede=3", 'no such field; did you mean "seed"?'),
        ("jobs.0.seed=1\nname = 3", 'jobs[0].seed: is "1?name = 3"'), ("defaults.seed.x=3", "which is not allowed"),
        ("jobs.0.model.x=3", "model is no table"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told(override: str, told: str) -> None:
    with pytest.raises(BadJobs) as stopped:
        runs({**JOB, "name": "night"}, overrides=(override,))
    assert told in str(stopped.value)


def test_the_callers_dict_is_not_changed() -> None:
    jobs: dict[str, Any] = {"jobs": [{**JOB}]}
    read_jobs(jobs, ["jobs.0.seed=3"])
    assert jobs == {"jobs": [JOB]}


def test_no_user_code() -> None:
    own = {"model": "shop:build", "inputs": "shop:one", "calibration": "shop:some", "budget": "macs=0.5"}
    jobs = {"jobs": [own, {**JOB, "evaluate": "shop:score"}]}
    assert len(runs_of(read_jobs(jobs))) == 2
    with pytest.raises(BadJobs) as stopped:
        read_jobs(jobs, user_code=False)
    assert [fault.partition(":")[0] for fault in stopped.value.faults] == [
        "jobs[0].model", "jobs[0].inputs", "jobs[0].calibration", "jobs[1].evaluate",
    ]  # fmt: skip
    assert all("--no-user-code" in fault for fault in stopped.value.faults)


def test_the_schema_accepts_what_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    """Each field that takes one value or several says both, and names its choices."""
    assert cli.main(["batch", "--schema"]) == cli.DONE
    found = json.loads(capsys.readouterr().out)
    job = found["$defs"]["Job"]
    assert not job["additionalProperties"]
    for field in ("model", "budget", "method", "seed", "multiple"):
        kinds = {kind.get("type", "object") for kind in job["properties"][field]["anyOf"]}
        assert "array" in kinds
        assert len(kinds) >= 3
        assert job["properties"][field]["description"]
    assert found["$defs"]["Method"]["properties"]["criterion"]["enum"] == list(schema.CRITERIA)


YAML = """
defaults: {seed: 3}
jobs:
  - model: [vgg, vit]
    budget:
      - macs=0.5
      - {params: 0.4}
"""


def test_yaml_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(YAML)
    found = runs_of(read_jobs(tmp_path / "jobs.yaml"))
    assert found == runs({"model": ["vgg", "vit"], "budget": ["macs=0.5", {"params": 0.4}]}, defaults={"seed": 3})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobs: [", "this is not YAML"), ("jobs: !!python/object/apply:os.system [ls]", "which is not allowed"),
        ("jobs: !!python/name:os.system x", "could not determine a constructor"), ("", "jobs: is missing"),
        ("a: &a [1]\nb: [*a, *a]", "line 1: anchors and aliases"), ("- 1", "holds no table"),
        ("jobs: []\njobs: []", 'line 2: the key "jobs" stands'), ("jobs: 2026-99-99", "line 1: month must be in"),
        ("? [1]\n: 2", "line 1: a key must be a plain name"), ("x: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)  # fmt: skip
def test_yaml_that_is_more_or_less_than_a_job_file(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(BadJobs, match=told):
        read_jobs(tmp_path / "jobs.yaml")


def test_yaml_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs.yml").write_text(YAML)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"YAML needs yaml; pip install 'workbench\[yaml\]', or write"):
        read_jobs(tmp_path / "jobs.yml")


def test_files_that_are_no_job_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.json").write_text("{}")
    (tmp_path / "large.toml").write_text("#" * (LARGEST + 1))
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    for name, told in [
        ("jobs.json", "a job file ends with .toml, .yaml, .yml"), ("large.toml", "more than 1,000,000 bytes"),
        ("bytes.toml", "byte 5 is not UTF-8"), ("nowhere.toml", "No such file or directory"),
    ]:  # fmt: skip
        assert cli.main(["batch", str(tmp_path / name)]) == cli.USAGE
        assert told in capsys.readouterr().err
    assert cli.main(["batch"]) == cli.USAGE
    assert "name a job file: workbench batch jobs.toml" in capsys.readouterr().err
