"""Results of any size and kind, and a browser that fails the test when a page complains or asks for anything."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.report import render

Result = dict[str, Any]

HERE = Path(__file__).parent
CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = {
    "script": "<script>window.hit = 1</script>",
    "image": '"><img src=x onerror="window.hit = 1">',
    "comment": "--><!--/run--></style></title><svg onload='window.hit=1'>",
    "braces": "{{ 7 * 7 }}{% raw %}${window.hit = 1}",
    "quotes": "a\"b'c`d\\",
    "rtl": "\u202egnp.exe \u05d0\u05d1\u05d2 \u0627\u0644\u0637\u0628\u0642\u0629",
    "long": "block." + "x" * 294,
    "words": "layer " * 50,
}


@pytest.fixture
def sample() -> Result:
    """The small result that is stored beside the tests."""
    loaded: Result = json.loads((HERE / "sample_result.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def made_up(sample: Result) -> Callable[..., Result]:
    """Makes a result of a chain of layers, one channel group each, with all seventeen digits that real ones have."""

    def make(layers: int, ratios: int, units: int = 64) -> Result:
        drawn = random.Random(0)
        names = [f"layer{1 + index // 8}.{index % 8}.conv{1 + index % 2}" for index in range(layers)]
        result = copy.deepcopy(sample)
        result["groups"] = [_group(drawn, name, units) for name in names]
        result["curves"]["groups"] = [_curve(drawn, name, ratios, units) for name in names]
        result["layers"] = [_layer(drawn, group) for group in result["groups"]]
        result["front"] = [_plan(drawn, step / 10, names, units) for step in range(1, 10)]
        return result

    return make


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest, sample: Result) -> tuple[str, Result]:
    """A hostile text, and the sample with that text wherever a text may come from a user."""
    text = HOSTILE[request.param]
    groups = {group["group"]: f"{text}{index}" for index, group in enumerate(sample["groups"])}
    keys = {"name", "class", "metric", "what", "reason", "remedy", "failed", "tensor", "kind", "command"}
    keys |= {"machine", "when", "method", "calibration", "workbench", "fingerprint"}

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {groups.get(inner, inner): spoil(kept, inner) for inner, kept in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        if not isinstance(value, str):
            return value
        return groups.get(value) or (text if key in keys else value)

    spoiled: Result = spoil(sample)
    spoiled["cost"]["not_counted"] = [text]
    spoiled["groups"][0]["approximate"] = [text]
    spoiled["source"]["versions"] = spoiled["source"]["fingerprints"] = {text: text}
    spoiled["run"]["seconds"] = {text: 1.0}
    spoiled["verification"] |= {"layer": text, "approximate": [text], "lost": [text]}
    for layer in spoiled["layers"]:
        layer["layer"] = text
    return text, spoiled


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One headless browser for the session."""
    if not CHROMIUM.exists():
        pytest.skip("needs a browser: apt-get install -y chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a result's report (or any HTML), and fails at the end on a console error or a request but the file's."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(content: Result | str, width: int = 1280, **options: Any) -> Any:
        file = tmp_path / f"report{len(contexts)}.html"
        file.write_text(content if isinstance(content, str) else render(content), encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: _check_request(request.url, file, complaints))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def _check_request(url: str, file: Path, complaints: list[str]) -> None:
    if url != file.as_uri() and not url.startswith("blob:"):  # saving result.json makes a blob, which stays inside
        complaints.append(f"request: {url}")


def _group(drawn: random.Random, name: str, units: int) -> dict[str, Any]:
    norm = name.replace("conv", "bn")
    tensors = [f"{name}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
    return {
        "group": name,
        "units": units,
        "kept": sorted(drawn.sample(range(units), drawn.randint(units // 3, units))),
        "members": [{"tensor": tensor, "dim": 0} for tensor in tensors],
        "approximate": [],
    }


def _curve(drawn: random.Random, name: str, ratios: int, units: int) -> dict[str, Any]:
    steepness = drawn.random()
    points = []
    for step in range(1, ratios + 1):
        share = round(step / (ratios + 1), 4)
        fitted = steepness * (1 - share) ** 2
        loss, half = fitted + drawn.gauss(0, 0.01), abs(drawn.gauss(0.01, 0.002))
        numbers = {
            "score": -0.21 - loss,
            "degradation": loss,
            "low": loss - half,
            "high": loss + half,
            "fitted": fitted,
        }
        points.append({"share": share, "kept": math.ceil(share * units), **numbers, "failed": None})
    return {"group": name, "units": units, "points": points}


def _layer(drawn: random.Random, group: dict[str, Any]) -> dict[str, Any]:
    widths = [group["units"], len(group["kept"])]
    error = 0.2 + 0.5 * drawn.random()
    return {
        "layer": group["group"],
        "kind": "conv2d",
        "in": widths,
        "out": widths,
        "macs": [9 * 196 * width**2 for width in widths],
        "params": [9 * width**2 for width in widths],
        "group_in": None,
        "group_out": group["group"],
        "error": [error, error * drawn.random() / 3],
    }


def _plan(drawn: random.Random, budget: float, names: list[str], units: int) -> dict[str, Any]:
    return {
        "budget": {"macs": budget},
        "cost_ratio": budget - 0.01 * drawn.random(),
        "predicted_degradation": drawn.random(),
        "options": {name: drawn.randint(units // 3, units) for name in names},
    }
