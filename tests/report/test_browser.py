"""The page in a browser: what a reader sees, clicks and tabs to. Every test also fails on an error or a request."""

from __future__ import annotations

import importlib.resources
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.report import fragment

Result = dict[str, Any]
Visit = Callable[..., Any]


def _overflow(page: Any) -> int:
    overflow: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return overflow


def _column(page: Any, table: str, column: int) -> list[str]:
    return [
        text.strip() for text in page.locator(f"[data-test={table}] tbody tr > :nth-child({column})").all_inner_texts()
    ]


@pytest.mark.parametrize("width", [320, 400, 768, 1280, 1920, 3840])
def test_no_sideways_scrolling(visit: Visit, sample: Result, width: int) -> None:
    page = visit(sample, width)
    assert _overflow(page) == 0
    page.locator("[data-test=numbers]").check()
    assert _overflow(page) == 0


@pytest.mark.parametrize("width", [320, 1280])
def test_large_result(visit: Visit, made_up: Callable[..., Result], width: int) -> None:
    start = time.perf_counter()
    page = visit(made_up(160, 9), width)
    page.locator("footer button").wait_for()
    assert time.perf_counter() - start < 3  # under one second on an idle machine, with the page written and rendered
    assert _overflow(page) == 0


@pytest.mark.parametrize("width", [320, 1280])
def test_hostile_texts_are_text(visit: Visit, hostile: tuple[str, Result], width: int) -> None:
    text, result = hostile
    page = visit(result, width)
    page.locator("[data-test=layer-table] tbody tr").first.hover()
    page.locator("[data-test=readout]", has_text="the plan keeps").wait_for()
    assert page.evaluate("window.hit") is None
    assert _overflow(page) == 0
    assert page.locator("h1 bdi").first.text_content() == text
    heights = page.locator("[data-test=heat] tbody tr").evaluate_all("rows => rows.map(row => row.offsetHeight)")
    assert max(heights) < 90


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Visit, sample: Result, scheme: str) -> None:
    pytest.importorskip("axe_playwright_python", reason="needs: pip install axe-playwright-python")
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page = visit(sample, color_scheme=scheme)
    page.evaluate(axe)
    for numbers in (False, True):
        page.locator("[data-test=numbers]").set_checked(numbers)
        found = page.evaluate("axe.run()")
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []


def test_dark_and_light(visit: Visit, sample: Result) -> None:
    shade = "getComputedStyle(document.querySelector('.wb-report')).backgroundColor"
    assert visit(sample, color_scheme="light").evaluate(shade) == "rgb(253, 253, 252)"
    assert visit(sample, color_scheme="dark").evaluate(shade) == "rgb(21, 24, 29)"


def test_without_javascript(visit: Visit, sample: Result) -> None:
    page = visit(sample, java_script_enabled=False)
    groups = len(sample["curves"]["groups"])
    assert page.locator(".area g").count() == groups
    assert page.locator("[data-test=heat] tbody tr").count() == groups
    assert page.locator("[data-test=layer-table] tbody tr").count() == len(sample["layers"])
    assert page.locator("[data-test=plans] tbody tr").count() == len(sample["front"])
    assert page.locator("button:visible, [type=range]:visible").count() == 0
    page.locator("[data-test=numbers]").check()
    cell = page.locator("[data-test=heat] tbody td").first
    assert cell.inner_text().split("\n") == ["0.0075", "±0.0032"]
    assert cell.evaluate("cell => parseFloat(getComputedStyle(cell).fontSize)") > 10


def test_layer_lights_up_everywhere(visit: Visit, sample: Result) -> None:
    page = visit(sample)
    page.locator("[data-test=layer-table] tbody tr").nth(2).hover()
    lit = page.locator("[data-g].on")
    assert lit.count() == 4  # curve, its name, row of the heat map, row of the layers
    assert set(lit.evaluate_all("nodes => nodes.map(node => node.dataset.g)")) == {"2"}
    said = page.locator("[data-test=readout]", has_text="features.7: the plan keeps 46 of 64.")
    said.wait_for()
    page.locator("[data-test=heat] tbody tr").nth(2).locator("td").first.hover()
    point = sample["curves"]["groups"][2]["points"][-1]
    costs = "At 90 % it alone costs {degradation:.4f} ({low:.4f} to {high:.4f}).".format(**point)
    page.locator("[data-test=readout]", has_text=costs).wait_for()
    page.locator("h1").hover()
    assert lit.count() == 0


def test_curve_under_the_pointer(visit: Visit, sample: Result) -> None:
    page = visit(sample)
    area = page.locator("[data-test=curves] .area")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 4)
    assert page.locator("tr.on").first.inner_text().startswith("features.0")
    point = sample["curves"]["groups"][0]["points"][0]
    assert point["share"] == 0.1
    page.locator("[data-test=readout]", has_text=f"At 10 % it alone costs {point['degradation']:.4f}").wait_for()


def test_toggle_by_mouse_and_keyboard(visit: Visit, sample: Result) -> None:
    page = visit(sample)
    curves = page.locator(".area g")
    boxes = page.locator("[data-test=toggle]")
    shown = "curves => curves.map(curve => getComputedStyle(curve).display !== 'none')"
    boxes.nth(1).click()
    assert curves.evaluate_all(shown).index(False) == 1
    page.locator("[data-test=none]").click()
    assert not any(curves.evaluate_all(shown))
    boxes.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert curves.evaluate_all(shown) == [index == 2 for index in range(curves.count())]
    assert page.locator("tr.on").first.inner_text().startswith("features.7")
    page.locator("[data-test=all]").click()
    assert all(curves.evaluate_all(shown))


def test_result_without_curves_still_lights_and_sorts(visit: Visit, sample: Result) -> None:
    page = visit(sample | {"curves": None})
    page.locator("[data-test=layer-table] tbody tr").first.hover()
    page.locator("[data-test=layer-table] thead button").first.click()
    assert page.locator("[aria-sort]").count() == 1


def test_one_tab_stop_a_table(visit: Visit, sample: Result) -> None:
    page = visit(sample)
    for selector in ("[data-test=toggle]", "[data-test=layer-table] tbody tr"):
        assert page.locator(f"{selector}[tabindex='0']").count() == 1
        page.locator(f"{selector}[tabindex='0']").focus()
        page.keyboard.press("ArrowUp")  # nothing above: stays
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.closest('tr').rowIndex") >= 2
        assert page.locator(f"{selector}[tabindex='0']").count() == 1


@pytest.mark.parametrize(("table", "column"), [("layer-table", 5), ("layer-table", 2), ("heat", 11), ("heat", 12)])
def test_sort_by_number(visit: Visit, sample: Result, table: str, column: int) -> None:
    page = visit(sample)
    head = page.locator(f"[data-test={table}] thead tr:last-child th").nth(column - 1)

    def numbers() -> list[float]:
        factors = {"": 1.0, "k": 1e3, "M": 1e6}
        shown = [re.findall(r"([\d.]+)\s?([kM]?)", text.split(" of ")[0])[-1] for text in _column(page, table, column)]
        return [float(digits) * factors[prefix] for digits, prefix in shown]

    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers())
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)


def test_sort_keeps_unknown_below_and_names_in_order(visit: Visit, sample: Result) -> None:
    sample["layers"][2]["error"] = None
    page = visit(sample)
    error = page.locator("[data-test=layer-table] thead th").nth(8).locator("button")
    for _ in range(2):
        error.click()
        assert [text == "\u2013" for text in _column(page, "layer-table", 9)] == 7 * [False] + 2 * [True]
    page.locator("[data-test=heat] thead tr:last-child th").nth(9).locator("button").click()
    assert _column(page, "heat", 1)[-1] == "features.10"  # its point at 10 % failed
    page.locator("[data-test=heat] thead tr:last-child th").first.locator("button").click()
    assert _column(page, "heat", 1) == [f"features.{index}" for index in (0, 3, 7, 10, 14, 17, 21, 24)]
    assert page.locator("[aria-sort]").count() == 2  # one a table


def test_slider_shows_the_plans_of_the_result(visit: Visit, sample: Result) -> None:
    page = visit(sample)
    slider = page.locator("[data-test=slider]")
    chosen = page.locator("[data-test=plans] tr", has_text="applied")
    assert int(slider.input_value()) == 2
    assert chosen.locator("th").inner_text().startswith("at most 50")
    slider.focus()
    for index in (3, 4):
        page.keyboard.press("ArrowRight")
        plan = sample["front"][index]
        widths = ", ".join(f"{group} {width}" for group, width in plan["options"].items())
        loss = f"{plan['predicted_degradation']:.4f}"
        page.locator("[data-test=plan]", has_text=f"predicted degradation {loss}. Widths: {widths}.").wait_for()
        assert page.locator("[data-test=plans] tbody tr.on").inner_text().split()[-1] == loss


def test_saved_result_is_the_result(visit: Visit, sample: Result, tmp_path: Path) -> None:
    page = visit(sample)
    with page.expect_download() as waiting:
        page.locator("[data-test=save]").click()
    assert waiting.value.suggested_filename == "result.json"
    waiting.value.save_as(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == sample


def test_print(visit: Visit, sample: Result) -> None:
    page = visit(sample, 720, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("button:visible, input:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.querySelector('.wb-report')).color") == "rgb(28, 34, 43)"
    assert _overflow(page) == 0


def test_fragments_leave_the_notebook_alone(visit: Visit, sample: Result) -> None:
    notebook = "<!doctype html><title>n</title><h2>Mine</h2><table><tr><td>1</table><p><i>mine</i> <code>x</code></p>{}"
    styles = """() => [...document.body.querySelectorAll("h2, table, tr, td, p, i, code")].slice(0, 7).map(
        node => JSON.stringify([...getComputedStyle(node)].map(key => getComputedStyle(node)[key])))"""
    plain = visit(notebook.format("")).evaluate(styles)
    page = visit(notebook.format(2 * fragment(sample)))
    assert page.evaluate(styles) == plain
    assert page.evaluate("document.querySelectorAll('[id]').length") == 0
    second = page.locator(".wb-report").nth(1)
    second.locator("[data-test=layer-table] tbody tr").first.hover()
    assert page.locator("[data-g].on").count() == second.locator("[data-g].on").count() > 0


@pytest.mark.parametrize(("attribute", "color"), [("true", "rgb(253, 253, 252)"), ("false", "rgb(21, 24, 29)")])
def test_fragment_follows_jupyterlab(visit: Visit, sample: Result, attribute: str, color: str) -> None:
    page = visit(f'<!doctype html><title>n</title><body data-jp-theme-light="{attribute}">{fragment(sample)}')
    assert page.evaluate("getComputedStyle(document.querySelector('.wb-report')).backgroundColor") == color
