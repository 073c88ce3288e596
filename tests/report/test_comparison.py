"""Several results on one page, and the index page of a batch, which shares its table."""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import workbench as wb
from tests.report.conftest import HOSTILE
from workbench import cli
from workbench.batch import index, table
from workbench.report import comparison
from workbench.report.figures import scatter

Result = dict[str, Any]
Entry = tuple[str, str, Result]
Visit = Callable[..., Any]


@pytest.fixture
def entries(sample: Result) -> list[Entry]:
    """Three results of one model, and one of another that missed its target."""
    found = []
    for name, share, after in (("a", 0.75, 0.94), ("b", 0.5, 0.92), ("c", 0.25, 0.85)):
        found.append((name, f"{name}/report.html", _changed(sample, share, after)))
    other = _changed(sample, 0.5, 0.8)
    other["model"] |= {"name": "other", "fingerprint": "sha256:other"}
    other["target_met"] = False
    return [*found, ("d", "", other)]


def _changed(sample: Result, share: float, after: float) -> Result:
    result = copy.deepcopy(sample)
    macs = result["cost"]["before"]["macs"]
    result["cost"]["after"]["macs"] = int(share * macs)
    result["cost"]["ratio"]["macs"] = share
    score = result["score"]
    score |= {"after": after, "difference": after - score["before"]}
    score["interval"] = [score["difference"] - 0.004, score["difference"] + 0.004]
    for layer in result["layers"]:
        layer["out"][1] = max(1, int(share * layer["out"][0]))
    return result


def _overflow(page: Any) -> int:
    overflow: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return overflow


def _names(page: Any, hidden: bool = False) -> list[str]:
    rows = page.locator(f"[data-test=run]{'' if hidden else ':visible'} th a, [data-test=run]:visible th > bdi")
    return [text.strip() for text in rows.all_inner_texts()]


@pytest.mark.parametrize("width", [320, 768, 1280, 1920])
def test_no_sideways_scrolling(visit: Visit, entries: Sequence[Entry], width: int) -> None:
    assert _overflow(visit(comparison.render(entries), width)) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing(visit: Visit, entries: Sequence[Entry], scheme: str, width: int) -> None:
    pytest.importorskip("axe_playwright_python", reason="needs: pip install axe-playwright-python")
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page = visit(comparison.render(entries), width, color_scheme=scheme)
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_it_sorts(visit: Visit, entries: Sequence[Entry]) -> None:
    page = visit(comparison.render(entries))
    page.locator("[data-test=run-table] thead button", has_text="After").click()
    assert _names(page) == ["d", "c", "b", "a"]
    page.keyboard.press("Enter")
    assert _names(page) == ["a", "b", "c", "d"]
    page.locator("[data-test=run-table] thead button", has_text="MACs left").click()
    assert _names(page) == ["c", "b", "d", "a"]


def test_it_filters_table_and_figure(visit: Visit, entries: Sequence[Entry]) -> None:
    page = visit(comparison.render(entries))
    dots = page.locator("[data-test=scatter] .area [data-g]")
    shown = "dots => dots.map(dot => getComputedStyle(dot).display !== 'none')"
    page.locator("[data-test=filter]").fill("other 50")
    assert _names(page) == ["d"]
    assert dots.evaluate_all(shown) == [False, False, False, True]
    assert page.locator("[data-test=shown]").inner_text() == "1 of 4"
    page.locator("[data-test=filter]").fill("")
    assert _names(page) == ["a", "b", "c", "d"]
    assert all(dots.evaluate_all(shown))


def test_a_row_and_its_dot_light_up_together(visit: Visit, entries: Sequence[Entry]) -> None:
    page = visit(comparison.render(entries))
    page.locator("[data-test=run]").nth(1).hover()
    assert set(page.locator(".on").evaluate_all("nodes => nodes.map(node => node.dataset.g)")) == {"1"}
    assert page.locator(".area .on").count() == 1
    page.locator("h1").hover()
    assert page.locator(".on").count() == 0


def test_without_javascript_all_is_there(visit: Visit, entries: Sequence[Entry]) -> None:
    page = visit(comparison.render(entries), java_script_enabled=False)
    assert _names(page) == ["a", "b", "c", "d"]
    assert page.locator("[data-test=scatter] .area [data-g]").count() == 4
    assert page.locator("button:visible, input:visible").count() == 0
    assert page.locator("[data-test=run] a").evaluate_all("links => links.map(link => link.getAttribute('href'))") == [
        "a/report.html", "b/report.html", "c/report.html",
    ]  # fmt: skip
    assert page.locator("[data-test=run] .badge").all_inner_texts() == ["missed"]


def test_widths_stand_side_by_side_where_the_model_is_the_same(entries: Sequence[Entry]) -> None:
    page = comparison.render(entries)
    tables = re.findall(r'<table class="widths">(.*?)</table>', page, re.DOTALL)
    assert len(tables) == 1  # of the other model there is one result
    layer = entries[0][2]["layers"][0]
    (row,) = re.findall(rf"<bdi>{re.escape(layer['layer'])}</bdi>(.*)", tables[0])
    kept = [result["layers"][0]["out"][1] for _, _, result in entries[:3]]
    assert re.findall(r"<td[^>]*>(\d+)", row) == [str(value) for value in (layer["out"][0], *kept)]


def test_the_axis_is_absolute_where_models_differ(entries: Sequence[Entry]) -> None:
    assert "against the MACs of one sample" in comparison.render(entries)
    assert "against the share of the MACs left" in comparison.render(entries[:3])


def test_each_score_has_a_figure(entries: list[Entry]) -> None:
    entries[3][2]["score"]["name"] = "another score"
    page = comparison.render(entries)
    assert page.count('<figure data-test="scatter">') == 2


def test_equal_entries_give_equal_bytes(entries: Sequence[Entry]) -> None:
    other = copy.deepcopy(entries)
    for _, _, result in other:
        result["run"] = {"when": "later"}  # nothing of it stands on the page
    assert comparison.render(entries) == comparison.render(other)


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(f"{tag} {' '.join(name for name, _ in attrs)}")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_texts_are_text(visit: Visit, entries: list[Entry], bad: str) -> None:
    text = HOSTILE[bad]
    plain = _Elements(comparison.render(entries)).found
    for _, _, result in entries:
        result["score"]["name"] = result["source"]["method"] = result["layers"][0]["layer"] = text
        result["model"]["name"] = text
    spoiled = comparison.render([(text, link, result) for _, link, result in entries])
    assert set(_Elements(spoiled).found) <= set(plain)
    assert text in _Elements(spoiled).text
    for width in (320, 1280):
        page = visit(spoiled, width)
        assert page.evaluate("window.hit") is None
        assert _overflow(page) == 0


def test_the_index_of_a_batch_sorts_filters_and_fits(visit: Visit) -> None:
    known = {"model": "vgg", "method": "l2", "state": table.DONE, "score": "accuracy", "before": 0.9, "seconds": 3.0}
    rows = [
        dict.fromkeys(table.COLUMNS) | known | {"run": f"run{place}", "budget": f"macs={share}", "macs": share,
        "params": share, "after": share, "difference": share - 0.9, "low": share - 0.91, "high": share - 0.89,
        "peak_bytes": 1000} for place, share in enumerate((0.25, 0.75, 0.5))
    ]  # fmt: skip
    left = dict.fromkeys(table.COLUMNS) | known | {"run": "left", "state": table.LEFT, "budget": "", "score": None}
    left["before"] = None
    failed = left | {"run": "bad", "state": table.FAILED, "reason": "it <b>raised</b>", "folder": "log.txt"}
    for width in (320, 1280):
        page = visit(index.render([*rows, left, failed]), width)
        assert _overflow(page) == 0
    page.locator("[data-test=run-table] thead button", has_text="MACs left").click()
    assert _names(page) == ["run0", "run2", "run1", "left"]
    page.locator("[data-test=filter]").fill("macs=0.5")
    assert _names(page) == ["run2"]
    assert page.locator("[data-test=failed] li bdi").all_inner_texts() == ["bad", "it <b>raised</b>"]
    assert page.locator("[data-test=scatter] .area [data-g]").count() == 3  # what is left has no score


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two saved results, and one of which only the numbers are left."""
    out = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    study = wb.Study(model, x[:1], calibration=[x], refinement=None, name="net")
    for name, share in (("half", 0.5), ("more: #1", 0.7)):
        study.compress(study.allocate(wb.Budget(macs=share), mode="predicted")).save(out / name)
    (out / "bare").mkdir()
    (out / "bare" / "result.json").write_bytes((out / "half" / "result.json").read_bytes())
    return out


def test_from_python(saved: Path) -> None:
    page = wb.compare([saved / "half", saved / "more: #1", saved / "bare"], saved / "pages" / "all.html")
    links = re.findall(r'<a href="([^"]*)"', page.read_text(encoding="utf-8"))
    assert links == ["../half/report.html", "../more%3A%20%231/report.html"]
    with pytest.raises(ValueError, match="there is nothing to compare; give at least one"):
        wb.compare([], saved / "none.html")
    with pytest.raises(ValueError, match=r"holds no result: there is no result\.json in it"):
        wb.compare([saved], saved / "none.html")


def test_from_the_command_line(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = saved / "cli.html"
    assert cli.main(["compare", "--html", str(page), str(saved / "half"), str(saved / "bare"), "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == {"page": str(page)}
    assert page.is_file()
    assert cli.main(["compare", "--html", str(page), str(saved)]) == cli.USAGE


def test_a_result_that_somebody_else_wrote(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"score": 1, "cost": []}')
    with pytest.raises(ValueError, match="holds no result that this version of workbench wrote"):
        wb.compare([tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_within(low: float, height: float) -> None:
    values = scatter.round_values(low, low + height)
    assert len(values) <= 6
    slack = 1e-6 * height + 1e-9 * abs(low)
    assert all(low - slack <= value <= low + height + slack for value in values)


def test_dots_stand_at_their_cost_and_score() -> None:
    dots = [scatter.Dot(0, 0, 0, 1.0, 0.5, (0.4, 0.6)), scatter.Dot(1, 0, 0, 2.0, 0.9, None)]
    figure = scatter.plot(dots, [(4.0, 1.0)], str)
    (first, second), (original,) = (
        [tuple(map(int, place)) for place in re.findall(rf'<path class={css} d="M(\d+) (\d+)h0"', figure)]
        for css in ("pick", "was")
    )
    assert (first[0], second[0], original[0]) == (125, 250, 500)  # from 0 to the dearest
    bottom, top = 0.4 - 0.06 * 0.6, 1.0 + 0.06 * 0.6
    assert [round(500 * (top - score) / (top - bottom)) for score in (0.5, 0.9, 1.0)] == [
        first[1], second[1], original[1],
    ]  # fmt: skip
    (span,) = re.findall(r'<path class=span d="M125 (\d+)l0-(\d+)"', figure)
    assert int(span[0]) > first[1] > int(span[0]) - int(span[1])
    assert figure.count("class=join") == 1  # both are of one series
    assert re.findall(r"<text[^>]*>([12])</text></g>", figure) == ["1", "2"]
