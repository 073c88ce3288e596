"""What a notebook shows: fragments and figures of every value, with names that do harm and names that do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from torch import nn

import workbench as wb
from tests.report.conftest import HOSTILE
from workbench.report import notebook
from workbench.select import Path as Order
from workbench.sensitivity.curves import Curve, Point, SensitivityCurves

GOLDEN = Path(__file__).parent.parent / "golden" / "notebook"
Visit = Callable[..., Any]


def curves(*names: str, metric: str = "accuracy") -> SensitivityCurves:
    """Two measured points, of which a prediction lies between."""

    def curve(name: str, worst: float) -> Curve:
        points = (
            Point(0.25, 2, 0.9 - worst, worst, 0.9 * worst, 1.1 * worst), Point(0.5, 4, predicted=worst / 2),
            Point(0.75, 6, 0.9, 0.0, -0.01, 0.01),
        )  # fmt: skip
        return Curve(name, 8, points, Order(tuple(range(8)), (), (), 1))

    found = tuple(curve(name, 0.1 * place) for place, name in enumerate(names, 1))
    return SensitivityCurves(metric, 0.9, 100, "sha256:0", found)


def plan(*names: str, **budget: Any) -> wb.Plan:
    kept = dict.fromkeys(names, (0, 2, 3, 7))
    ranks = {names[0]: wb.Rank("spatial_svd", 3, 1)}
    units = dict.fromkeys(names, 8)
    return wb.Plan(kept, units, wb.Budget(macs=0.5, **budget), 0.0312, 0.0, "sha256:0", lost=0.03, ranks=ranks)


def network(*names: str) -> nn.Module:
    """A chain whose layers have these names."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for place, name in enumerate(names):
        model.add_module(name, nn.Linear(8, 8))
        model.add_module(f"relu{place}", nn.ReLU())
    model.add_module("head", nn.Linear(8, 2))
    return model.eval()


def study(*names: str) -> wb.Study:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    return wb.Study(network(*names), x[:1], calibration=[x], refinement=None, name=names[0])


def graph(name: str) -> wb.ChannelGraph:
    return study(name).graph


SHOWN: dict[str, Callable[[str], str]] = {
    "study": lambda name: study(name)._repr_html_(),
    "graph": lambda name: graph(name)._repr_html_(),
    "curves": lambda name: curves(name, "second", metric=f"score {name}")._repr_html_(),
    "plan": lambda name: plan(name, "second", multiple={name: 4})._repr_html_(),
}


def without_style(text: str) -> str:
    return re.sub(r"<style>.*?</style>\s*", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("kind", SHOWN)
def test_golden(kind: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{kind}.html"
    found = without_style(SHOWN[kind]("first"))
    if request.config.getoption("--overwrite"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8"), "run pytest tests/report --overwrite and read the difference"


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("bad", HOSTILE)
@pytest.mark.parametrize("kind", SHOWN)
def test_a_hostile_name_makes_no_element(kind: str, bad: str) -> None:
    name = HOSTILE[bad].replace(".", "_")  # a module's name has no dot
    plain, hostile = (_Elements(without_style(SHOWN[kind](text))) for text in ("first", name))
    assert hostile.found == plain.found
    assert name in hostile.text


def test_a_result_is_the_body_of_its_report(visit: Visit) -> None:
    result = study("first").compress(wb.Budget(macs=0.7))
    shown = result._repr_html_()
    assert 'data-test="outcome"' in shown
    notebook_page = f"<!doctype html><title>n</title>{study('first')._repr_html_()}{shown}"
    page = visit(notebook_page)  # a part without a script stands above: the result's script leaves it alone
    page.locator("[data-test=layer-table] thead button").first.click()
    assert page.locator("[aria-sort]").count() == 1


@pytest.mark.parametrize("width", [320, 1000])
def test_parts_read_without_a_script_and_fit(visit: Visit, width: int) -> None:
    page = visit("<!doctype html><title>n</title>" + "".join(show("first") for show in SHOWN.values()), width)
    assert page.locator(".area g").count() == 2
    assert page.locator("[data-test=heat] tbody tr").count() == 2
    assert page.locator("button:visible").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    page.locator("[data-test=numbers]").check()
    assert page.locator("[data-test=heat] tbody td").first.inner_text() == "0\n±0.010"


def test_parts_leave_the_notebook_alone(visit: Visit) -> None:
    frame = "<!doctype html><title>n</title><h2>Mine</h2><table><tr><td>1</table><p><i>mine</i> <code>x</code></p>{}"
    styles = """() => [...document.body.querySelectorAll("h2, table, tr, td, p, i, code")].slice(0, 7).map(
        node => JSON.stringify([...getComputedStyle(node)].map(key => getComputedStyle(node)[key])))"""
    plain = visit(frame.format("")).evaluate(styles)
    assert visit(frame.format("".join(show("first") for show in SHOWN.values()))).evaluate(styles) == plain


def test_a_study_shows_itself_without_work() -> None:
    one = study("first")
    assert "not traced yet" in one._repr_html_()
    assert "graph" not in vars(one)
    one.sensitivity("predicted")
    assert "SensitivityCurves(1 groups, ranks of 2 layers, negative KL" in one._repr_html_()


def test_curves_of_nothing_show_themselves() -> None:
    assert "What does each group lose?" in notebook.curves(curves().to_dict(), {})


@pytest.fixture
def figures() -> Iterator[None]:
    """No window, and no figure is left open."""
    import matplotlib.pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")


def figures_of(name: str) -> list[Any]:
    """Every figure that bears a name."""
    made = curves(name, "second", metric=name)
    result = study(name).compress(wb.Budget(macs=0.7))
    return [made.plot(), made.plot_heat(), plan(name, "second").plot(), result.plot(), result.plot("params")]


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "x" * 300])
def test_names_in_figures_are_text(name: str) -> None:
    for axes in figures_of(name):
        axes.figure.draw_without_rendering()  # raises where a name is taken for a formula
        labels = [*axes.get_yticklabels(), *(axes.get_legend().get_texts() if axes.get_legend() else ())]
        assert any(name[-20:] in label.get_text() for label in labels)


@pytest.mark.usefixtures("figures")
def test_figures_show_the_numbers() -> None:
    made = curves("a", "b")
    (image,) = made.plot_heat().images
    assert [list(row.round(3)) for row in image.get_array()] == [
        [round(made[name].fitted[place], 3) for place in (2, 1, 0)] for name in ("a", "b")
    ]
    bars = plan("a", "b").plot().patches
    assert [bar.get_width() for bar in bars] == [8, 8, 4, 4]
    result = study("first").compress(wb.Budget(macs=0.7))
    found = [bar.get_width() for bar in result.plot().patches]
    assert found == [*(row["macs"][0] for row in result.layers()), *(row["macs"][1] for row in result.layers())]
    assert sum(found[len(found) // 2 :]) == result.cost.macs
    with pytest.raises(ValueError, match="the cost 'size_bytes' is not known by layer; choose from macs, params"):
        result.plot("size_bytes")


@pytest.mark.usefixtures("figures")
def test_a_band_bridges_no_predicted_point() -> None:
    axes = curves("a").plot()
    band, bars = axes.collections
    assert len(band.get_paths()) == 2  # not one from the first measured point to the last
    assert len(bars.get_segments()) == 3
