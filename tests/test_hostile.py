"""Artefacts, stores and run folders that somebody made to do harm: each is refused with one sentence."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import workbench as wb
from workbench import cli
from workbench.artefact import PLAN, REFERENCE, WEIGHTS, reference_inputs, replays
from workbench.batch.folder import Folder
from workbench.batch.table import rows
from workbench.sensitivity.store import NAME, Store

Plan = dict[str, Any]


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = torch.randn(32, 6)
    study = wb.Study(build(), x[:1], calibration=[x], refinement=None)
    return study.compress(study.allocate(wb.Budget(macs=0.5), mode="predicted")).save(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    made = tmp_path / "artefact"
    made.mkdir()
    for path in good.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def used(folder: Path) -> None:
    """All that reads an artefact."""
    small = wb.restore(build(), folder)
    reference_inputs(folder)
    replays(small, folder)


def refused(folder: Path, read: Callable[[], Any] | None = None) -> str:
    before = set(folder.parent.rglob("*"))
    with pytest.raises((ValueError, OSError)) as stopped:
        (read or (lambda: used(folder)))()
    assert set(folder.parent.rglob("*")) == before
    said = str(stopped.value)
    assert "\n" not in said
    assert len(said) < 1000
    assert str(folder) in said
    return said


def test_the_artefact_is_good(folder: Path) -> None:
    used(folder)


def change(key: str, value: Any) -> Callable[[Plan], Any]:
    return lambda plan: {**plan, key: value}


def cut(**changes: Any) -> Callable[[Plan], Any]:
    return lambda plan: {**plan, "cuts": [{**plan["cuts"][0], **changes}, *plan["cuts"][1:]]}


def arguments(args: Any) -> Callable[[Plan], Any]:
    return change("inputs", {"args": args, "kwargs": {"dict": {}}})


DEEP: Any = {"value": 1}
for _ in range(200):
    DEEP = {"tuple": [DEEP]}
PLANS: dict[str, Callable[[Plan], Any]] = {
    "format 2": change("format", 2), "format a list": change("format", [1] * 1000),
    "format true": change("format", True),
    "no name": lambda plan: {key: value for key, value in plan.items() if key != "name"},
    "name a number": change("name", 3), "unknown field": change("__class__", "os.system"),
    "cuts a text": change("cuts", "rm"), "cut without tensor": change("cuts", [{}]),
    "cut of a dunder": cut(tensor="__class__.__init__"), "cut of a path": cut(tensor="../../etc/passwd"),
    "cut with a field more": cut(code="import os"), "dimension negative": cut(dim=-1), "dimension 63": cut(dim=63),
    "size zero": cut(size=0), "size huge": cut(size=2**31 - 1), "size beyond": cut(size=2**80),
    "size a half": cut(size=0.5),
    "kept nothing": cut(kept=[]), "kept beyond": cut(kept=[999]), "kept negative": cut(kept=[-1]),
    "kept twice": cut(kept=[0, 0]), "kept texts": cut(kept=["0"]), "kept another number": cut(kept=[0]),
    "role a number": cut(role=1), "alias of nothing": change("aliases", {"a": "b"}),
    "aliases a list": change("aliases", []),
    "alias of itself": change("aliases", {"a": "a"}), "units less than kept": change("units", {}),
    "submodule a list": change("submodule", []), "rewritten a text": change("rewritten", "yes"),
    "inputs none": change("inputs", {}), "inputs of another kind": arguments({"pickle": ""}),
    "inputs deep": arguments(DEEP),
    "input that is not stored": arguments({"tuple": [{"tensor": 9, "shape": [1], "dtype": "x"}]}),
    "a list": lambda plan: [plan], "a number": lambda plan: 1,
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none(name: str, folder: Path) -> None:
    plan = json.loads((folder / PLAN).read_text())
    (folder / PLAN).write_text(json.dumps(PLANS[name](plan)))
    refused(folder)


TEXTS: dict[str, bytes] = {
    "empty": b"", "half": b'{"format": 1', "nan": b'{"format": 1, "gap": NaN}', "infinite": b'{"gap": -Infinity}',
    "key twice": b'{"format": 1, "format": 1}', "nested": b"[" * 200_000, "not utf-8": b'{"a": "\xff"}',
    "pickle": b"\x80\x04.",
    "long number": b'{"format": ' + b"9" * 5000 + b"}", "zeros": bytes(1000),
}  # fmt: skip


@pytest.mark.parametrize("file", [PLAN, "job.json"])
@pytest.mark.parametrize("name", TEXTS)
def test_json_that_is_none(name: str, file: str, folder: Path) -> None:
    (folder / file).write_bytes(TEXTS[name])
    refused(folder, None if file == PLAN else lambda: Folder(folder.parent).job(folder.name))


def tensors(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(shape: list[int], start: int, end: int, kind: str = "F32") -> bytes:
    return json.dumps({"0.weight": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}}).encode()


SAFETENSORS: dict[str, bytes] = {
    "empty": b"", "short": b"\x01", "header beyond the file": tensors(b"{}", size=2**63), "no header": tensors(b""),
    "header of 90 MB": tensors(b"{}", size=90_000_000), "header a list": tensors(b"[]"),
    "header nested": tensors(b"[" * 90_000),
    "huge shape": tensors(entry([2**40, 2**40], 0, 4), bytes(4)),
    "negative shape": tensors(entry([-1], 0, 4), bytes(4)),
    "data beyond": tensors(entry([1000], 0, 4000), bytes(4)), "backwards": tensors(entry([1], 4, 0), bytes(4)),
    "unknown type": tensors(entry([1], 0, 4, "PICKLE"), bytes(4)), "nothing": tensors(b"{}"),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.", "zip": b"PK\x03\x04" + bytes(100),
}  # fmt: skip


@pytest.mark.parametrize("file", [WEIGHTS, REFERENCE])
@pytest.mark.parametrize("name", SAFETENSORS)
def test_tensors_that_are_none(name: str, file: str, folder: Path) -> None:
    (folder / file).write_bytes(SAFETENSORS[name])
    refused(folder)


def test_weights_that_are_others(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    for change in (
        {"0.weight": torch.full_like(state["0.weight"], torch.nan)}, {"0.weight": torch.ones(1)},
        {"more": torch.ones(1)},
        {"0.weight": state["0.weight"].long()}, {"0.weight": state["0.weight"].double()},
    ):  # fmt: skip
        save_file({**state, **change}, folder / WEIGHTS)
        refused(folder)


@pytest.mark.parametrize("file", [PLAN, WEIGHTS, REFERENCE])
def test_what_is_no_file(file: str, folder: Path) -> None:
    """A device that never ends, a pipe that never begins, a link to nothing or to itself, a folder."""
    path = folder / file
    makes: list[Callable[[], Any]] = [
        lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path), lambda: path.symlink_to(path),
        lambda: path.symlink_to("/nowhere"), path.mkdir, lambda: path.symlink_to("/etc/passwd"),
    ]  # fmt: skip
    for make in makes:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        make()
        refused(folder)


BELONGS = {"model": "m"}
LINES: dict[str, bytes] = {
    "text": b'"x"', "list": b"[1]", "no scores": b'{"kept": {"a": 1}, "block": 0}',
    "nan": b'{"kept":{"a":1},"block":0,"scores":[NaN]}',
    "texts": b'{"kept":{"a":1},"block":0,"scores":["1"]}', "nested": b"[" * 100_000,
    "object": b'{"kept":{"a":1},"block":0,"scores":{}}',
    "block a list": b'{"kept":{"a":1},"block":[],"scores":[1]}',
    "width a text": b'{"kept":{"a":"1"},"block":0,"scores":[1]}',
    "failed a list": b'{"kept":{"a":1},"block":0,"failed":[]}',
    "long": b'{"kept":{"a":1},"block":0,"scores":[1' + b"0" * 400 + b"]}",
    "deep scores": b'{"kept":{"a":1},"block":0,"scores":[[1]]}',
    "not utf-8": b'{"kept":{"\xff":1},"block":0,"scores":[1]}',
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_a_store_that_is_none(name: str, tmp_path: Path) -> None:
    Store(tmp_path, BELONGS).close()
    with (tmp_path / NAME).open("ab") as file:
        file.write(LINES[name] + b"\n")
    assert "line 2 of the store" in refused(tmp_path, lambda: Store(tmp_path, BELONGS))


def test_a_store_that_is_no_file(tmp_path: Path) -> None:
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo, lambda path: path.mkdir()):
        inside = tmp_path / str(len(list(tmp_path.iterdir())))
        inside.mkdir()
        make(inside / NAME)
        refused(inside, lambda inside=inside: Store(inside, BELONGS))  # type: ignore[misc]


JOB = {"format": 1, "job": {}, "summary": {}, "run": {}}
JOBS: dict[str, Any] = {
    "format": {**JOB, "format": "1"}, "no job": {"format": 1}, "job a text": {**JOB, "job": "vgg"}, "empty job": JOB,
    "summary a list": {**JOB, "summary": []}, "run a number": {**JOB, "run": 3},
    "scores texts": {**JOB, "job": {"model": "a", "method": "b", "seed": 0, "budget": {}},
                     "summary": {"target_met": True, "verified": True, "macs": "all"}},
}  # fmt: skip


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_is_none(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "job.json").write_text(json.dumps(JOBS[name]))
    refused(folder, lambda: rows(Folder(folder.parent)))
    assert cli.main(["list", str(folder.parent)]) == cli.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_suite_is_large() -> None:
    assert len(PLANS) + 2 * len(TEXTS) + 2 * len(SAFETENSORS) + len(LINES) + len(JOBS) >= 40


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from([PLAN, WEIGHTS, REFERENCE]), data=st.data())
def test_any_bytes_changed(file: str, data: st.DataObject, folder: Path, good: Path) -> None:
    """Read as before, or refused with a sentence: nothing else comes of a changed file."""
    content = bytearray((good / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    (folder / file).write_bytes(content)
    try:
        with suppress(ValueError, OSError):
            used(folder)
    finally:
        (folder / file).write_bytes((good / file).read_bytes())
