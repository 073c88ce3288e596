"""The parts below the page: numbers, scale, figures."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.report import units
from workbench.report.figures import bars, curves, strip, svg
from workbench.report.scale import HEAT_LEVELS, RootScale
from workbench.report.view import sensitivity, words

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.si(None), "\u2013"),
        (units.si(0), "0"),
        (units.si(999), "999"),
        (units.si(999_999), "1.00 M"),
        (units.si(29_275_904), "29.3 M"),
        (units.si(436_202), "436 k"),
        (units.si(400_000, "B"), "400 kB"),
        (units.si(12, "B"), "12 B"),
        (units.si(4.1e18), "4100 P"),
        (units.percent(0.498), "49.8 %"),
        (units.whole_percent(0.5), "50 %"),
        (units.whole_percent(0.125), "12.5 %"),
        (units.count(10_000), "10,000"),
        (units.score(0.93), "0.9300"),
        (units.score(-123.456), "\u2212123.46"),
        (units.signed(0.0012), "+0.0012"),
        (units.signed(-0.0032), "\u22120.0032"),
        (units.loss(1.234), "1.23"),
        (units.loss(0.01234), "0.0123"),
        (units.loss(0.00001234), "0.0000"),
        (units.loss(1234.5), "1234"),
        (units.spread(1.0, 0.9, 1.1), "±0.10"),
        (units.spread(1.0, 0.9, 1.4), "0.900 to 1.40"),
        (units.power(0.0), "0"),
        (units.power(1.2e-7), "1.2\u202f\u00d7\u202f10⁻⁷"),
        (units.power(9.96e-6), "1\u202f\u00d7\u202f10⁻⁵"),
        (units.seconds(0.0123), "12.3 ms"),
        (units.seconds(119), "119 s"),
        (units.seconds(600), "10 min"),
        (units.seconds(36_000), "10 h"),
        (words.cost_value("latency_ms", 8.1), "8.10 ms"),
        (words.cost_value("joules", 8100), "8.10 k"),
        (words.budget({"size_bytes": 2e6, "params": None}), "at most 2 MB of parameters and buffers"),
        (words.budget({"macs": 0.5, "params": 0.25}), "at most 50 % of the MACs, at most 25 % of the parameters"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected


@given(st.lists(FINITE, min_size=1))
def test_scale_holds_all_values_in_order(values: list[float]) -> None:
    scale = RootScale.over(values)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 1
    assert all(0 <= scale.level(value) <= HEAT_LEVELS for value in values)


@given(st.floats(-1e3, 0), st.floats(1e-6, 1e6))
def test_ticks_leave_room_and_name_zero(low: float, high: float) -> None:
    scale = RootScale(low, high)
    places = [scale.at(tick) for tick in scale.ticks()]
    assert 0.0 in scale.ticks()
    assert all(right - left > 0.099 for left, right in itertools.pairwise(places))


@given(st.data(), st.integers(1, 400))
def test_strip_marks_what_is_kept(data: st.DataObject, total: int) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, total - 1))))
    found = re.search(r'stroke-dasharray="([\d ]+)"', strip.strip(total, kept))
    assert found
    dashes = [int(length) for length in found[1].split()]
    assert len(dashes) % 2 == 0
    assert sum(dashes) == total
    assert sum(dashes[::2]) == len(kept)
    if total <= 128:  # one mark a unit, in its place
        marks = [index % 2 == 0 for index, length in enumerate(dashes) for _ in range(length)]
        assert [unit for unit, mark in enumerate(marks) if mark] == kept


@given(st.lists(st.tuples(st.floats(-999, 999), st.floats(-999, 999)), min_size=1, max_size=20))
def test_line_runs_through_its_points(points: list[tuple[float, float]]) -> None:
    x, y, *steps = map(int, re.findall(r"-?\d+", svg.line(points)))
    found = [(x, y)]
    for dx, dy in zip(steps[::2], steps[1::2], strict=True):
        found.append((found[-1][0] + dx, found[-1][1] + dy))
    assert found == [(round(px), round(py)) for px, py in points]


@given(FINITE, st.floats(0, 1e3), st.floats(0, 1e3))
def test_difference_stays_on_its_axis(value: float, below: float, above: float) -> None:
    figure = bars.difference(value, (value - below, value + above))
    places = [float(place) for place in re.findall(r"[MH](-?[\d.]+)", figure)]
    assert all(0 <= place <= 100 for place in places)


@pytest.mark.parametrize(("before", "after", "top"), [(None, 1.0, 1.0), (1.0, None, 1.0), (0.0, 0.0, 0.0)])
def test_no_bars_for_what_is_not_known(before: float | None, after: float | None, top: float) -> None:
    assert bars.pair(before, after, top) == ""


def test_names_of_curves_keep_apart_and_keep_their_ends() -> None:
    flat = [curves.Curve(f"stage.{index}." + "x" * 30 + ".conv", [(1, 0), (0.1, 0.5)], [], None) for index in range(30)]
    figure = curves.plot(flat, 0.1, RootScale(0, 0.5))
    names = re.findall(r"<text x=0% y=([\d.]+)%>([^<]*)</text></g>", figure)
    assert len(names) == 8
    assert all(len(name) == 18 and name.endswith(".conv") for _, name in names)
    heights = [float(height) for height, _ in names]
    assert all(below - above > 5 for above, below in itertools.pairwise(heights))
    assert 'class="plot many"' in figure


def test_curve_reaches_from_all_channels_to_few() -> None:
    band = [(0.5, 0.2, 0.3), (0.1, 0.9, 1.1)]
    curve = curves.Curve("a", [(1, 0), (0.5, 0.25), (0.1, 1)], [band], (0.5, 0.25))
    figure = curves.plot([curve], 0.1, RootScale(0, 1))
    assert '<path d="M0 500l278-250 222-250"/>' in figure
    assert '<path class=pick d="M278 250h0"/>' in figure
    assert figure.count("class=band") == 1


def test_a_point_alone_has_a_bar() -> None:
    curve = curves.Curve("a", [(1, 0), (0.5, 0.25)], [[(0.5, 0.2, 0.3)]], None)
    figure = curves.plot([curve], 0.1, RootScale(0, 1))
    (path,) = re.findall(r'<path class=band d="M(\d+) (\d+)l(\d+) 0 ', figure)
    assert int(path[0]) < 278 < int(path[0]) + int(path[2]) < 290


@pytest.mark.parametrize(
    ("kept", "loss"),
    [(32, "0"), (31, "0.100"), (24, "0.150"), (16, "0.200"), (8, "\u2013")],  # at, between and beyond measured widths
)
def test_loss_of_the_chosen_width(kept: int, loss: str) -> None:
    known = {"score": 0.0, "low": None, "high": None, "failed": None}
    points = [(0.97, 31, 0.1), (0.99, 32, 0.0), (0.5, 16, 0.2)]  # 99 % of 32 channels are all of them
    curve = {
        "group": "a",
        "units": 32,
        "points": [
            {"share": share, "kept": width, "degradation": value, "fitted": value, **known}
            for share, width, value in points
        ],
    }
    swept = {"metric": "m", "samples": 1, "baseline": 0.0, "groups": [curve]}
    shown = sensitivity.view({"curves": swept, "groups": [{"group": "a", "units": 32, "kept": list(range(kept))}]})
    assert shown is not None
    assert float(shown["rows"][0]["loss"].replace("\u2013", "nan")) == pytest.approx(
        float(loss.replace("\u2013", "nan")), abs=0.004, nan_ok=True
    )
