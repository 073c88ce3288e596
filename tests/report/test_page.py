"""The page as text: size, stability, safety, what it says."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from workbench.report import fragment, render, write

Result = dict[str, Any]
GOLDEN = Path(__file__).with_name("sample_body.html")


@pytest.mark.parametrize(("layers", "ratios", "units", "limit"), [(20, 9, 64, 60_000), (200, 19, 256, 800_000)])
def test_size(made_up: Callable[..., Result], layers: int, ratios: int, units: int, limit: int) -> None:
    assert len(render(made_up(layers, ratios, units)).encode()) < limit


def test_equal_bytes_outside_the_marked_part(sample: Result) -> None:
    other = copy.deepcopy(sample)
    other["run"] = {"when": "later", "machine": "other <!--/run-->", "command": "x", "seconds": {"trace": 99.0}}
    assert render(sample) == render(copy.deepcopy(sample))
    assert render(sample) != render(other)
    assert _compared(render(sample)) == _compared(render(other))


def test_golden_body(sample: Result, request: pytest.FixtureRequest) -> None:
    """The body without style, script and archive, whose bytes say nothing to a reader (and zlib's may differ)."""
    body = re.sub(r"<(style|script)\b.*?</\1>", "", _compared(fragment(sample)), flags=re.DOTALL).strip() + "\n"
    if request.config.getoption("--overwrite"):
        GOLDEN.write_text(body, encoding="utf-8")
    assert body == GOLDEN.read_text(encoding="utf-8"), "run pytest tests/report --overwrite and read the difference"


def test_policy_allows_exactly_what_is_inside(sample: Result) -> None:
    page = render(sample)
    style, script = (re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("style", "script"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert style
    assert script
    assert policy
    hashes = [base64.b64encode(hashlib.sha256(part[1].encode()).digest()).decode() for part in (style, script)]
    assert policy[1].replace("&#39;", "'") == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_hostile_texts_make_no_element(hostile: tuple[str, Result], sample: Result) -> None:
    text, result = hostile
    assert _tags(render(result)) <= _tags(render(sample)) | {"h3"}
    assert "onerror" not in _attributes(render(result))
    assert "onload" not in _attributes(render(result))
    assert text in _text(render(result))


def test_embedded_result_is_the_result(sample: Result) -> None:
    page = render(sample)
    packed = re.search(r'class="archive">([^<]*)<', page)
    run = re.search(r'<script type="application/json">([^<]*)<', page)
    assert packed
    assert run
    stored = json.loads(zlib.decompress(base64.b64decode(packed[1])))
    assert json.loads(run[1]) == sample["run"]
    assert _unpacked(stored) == {key: value for key, value in sample.items() if key != "run"}


def test_order_of_the_sections(sample: Result) -> None:
    found = re.findall(r"<section data-test=\"(\w+)\"", render(sample))
    assert found == ["outcome", "sensitivity", "layers", "front", "limits", "verification", "source"]


def test_no_front_no_section(sample: Result) -> None:
    del sample["front"]
    assert 'data-test="front"' not in render(sample)


def _set(path: str, value: object) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        *folders, last = path.split(".")
        place: Any = result
        for folder in folders:
            place = place[int(folder) if folder.isdigit() else folder]
        place[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("target_met", False), "✗ Target missed"),
        (_set("score.interval", None), "No interval: the evaluation gives one number"),
        (_set("score.interval", [0.001, 0.004]), "The gain is larger than chance explains."),
        (_set("score.interval", [-0.001, 0.004]), "The interval holds zero"),
        (_set("score.difference", None), "\u2013"),
        (_set("budget", {"latency_ms": 8.0, "multiple": 8}), "at most 8 ms of latency, widths in multiples of 8"),
        (_set("verification.ok", False), "do not use it"),
        (_set("verification.worst", 2e-4), "20 times above it"),
        (_set("verification.worst", None), "Worst relative difference \u2013"),
        (_set("curves.groups.0.points.0.fitted", None), "features.0"),
        (_set("curves.groups.0.points.0.low", None), "features.0"),
        (_set("curves.groups", []), "Channels kept"),
        (_set("groups", []), "features.0"),
        (_set("layers", []), "Output error"),
        (_set("verification.lost", ["4: constant channels"]), "Constants that no bias could take up"),
        (_set("ranks", {"features.0": {"method": "tucker", "rank": 3, "place": 2}}), "the products of the factors"),
        (_set("curves.groups.0.group", "features.0/rank"), "the rank of each layer (/rank) lowered alone"),
        (_set("groups.0.approximate", ["LayerNorm over the channels"]), "LayerNorm over the channels"),
    ],
)
def test_it_says(sample: Result, change: Callable[[Result], None], said: str) -> None:
    change(sample)
    assert said in _text(render(sample)).replace("\u00a0", " ")


def test_without_curves(sample: Result) -> None:
    sample["curves"] = None
    text = _text(render(sample))
    assert "Where did it come from?" not in text
    assert "10,000 samples." in text
    assert "What was done to each layer?" in text


def test_bars_of_what_became_more_stay_in_their_frame(sample: Result) -> None:
    """Factors write activations of their own."""
    sample["cost"]["ratio"]["activation_bytes"] = 1.5
    sample["cost"]["after"]["activation_bytes"] = round(1.5 * sample["cost"]["before"]["activation_bytes"])
    shares = [float(share) for share in re.findall(r"<rect width=([\d.]+)%", render(sample))]
    assert max(shares) == 100


def test_a_score_that_is_one_number_counts_no_samples(sample: Result) -> None:
    sample["score"] |= {"samples": 1, "interval": None}
    sample["curves"]["samples"] = 1
    sample["model"]["class"] = sample["model"]["name"]
    text = _text(render(sample)).replace("\u00a0", " ")
    assert "1 samples" not in text
    assert "one number, not one a sample." in text
    assert text.count("one number for all samples") == 3
    assert "<small>" not in render(sample).partition("</h1>")[0].rpartition("<h1>")[2]


def test_nothing_refused(sample: Result) -> None:
    sample["frozen"] = sample["cost"]["not_counted"] = []
    for group in sample["curves"]["groups"]:
        group["points"] = [point for point in group["points"] if point["failed"] is None]
    assert "Nothing: every channel could be considered" in render(sample)


@pytest.mark.parametrize("make", [render, fragment])
def test_errors_say_what_to_do(sample: Result, make: Callable[[Result], str]) -> None:
    with pytest.raises(ValueError, match=r"no 'budget'; pass the dict that Result\.to_dict"):
        make({key: value for key, value in sample.items() if key != "budget"})
    sample["score"]["after"] = float("nan")
    with pytest.raises(ValueError, match="write None for a number that is not known"):
        make(sample)


def test_write_makes_folders(sample: Result, tmp_path: Path) -> None:
    path = write(sample, tmp_path / "new" / "report.html")
    assert path.read_bytes() == render(sample).encode()


def test_jinja_is_imported_only_when_rendering() -> None:
    code = "import sys, workbench.report; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _compared(page: str) -> str:
    """The page without its marked part."""
    return re.sub(r"<!--run-->.*?<!--/run-->", "", page, flags=re.DOTALL)


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get(""), list):
        columns = [_unpacked(column) for column in value["rows"]]
        return [dict(zip(value[""], row, strict=True)) for row in zip(*columns, strict=True)]
    return {key: _unpacked(inner) for key, inner in value.items()}


class _Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def _tags(page: str) -> set[str]:
    return _Reader(page).tags


def _attributes(page: str) -> set[str]:
    return _Reader(page).names


def _text(page: str) -> str:
    return _Reader(page).text


def test_the_sample_is_a_page_of_today() -> None:
    """What ``make demo`` once wrote; after a change of the page: ``.venv/bin/workbench report reports/sample``."""
    folder = Path(__file__).parents[2] / "reports" / "sample"
    pages = render(json.loads((folder / "result.json").read_text())), (folder / "report.html").read_text()
    found, kept = (re.sub(r'class="archive">[^<]*', "", page) for page in pages)  # zlib's bytes may differ
    assert found == kept
