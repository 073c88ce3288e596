"""How large the report of a large model is, and how long a browser takes to open it.

The small result that the tests keep is grown to as many layers, each with nine measured widths; headless Chromium opens
its report again and again. ``seconds`` is the median time until the page has loaded, of the wall's clock: on a busy
machine it is longer.

python benchmarks/opening.py [--layers 160] [--times 7] [--out opening.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.report import render

SAMPLE = Path(__file__).parent.parent / "tests" / "report" / "sample_result.json"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"  # milliseconds
BROWSER = {
    "executable_path": "/usr/bin/chromium",
    "args": ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
}


def grown(result: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The result of a chain of so many layers, one channel group each."""
    groups, curves = result["groups"], [curve for curve in result["curves"]["groups"] if len(curve["points"]) == 9]
    by_group = {layer["group_out"]: layer for layer in result["layers"] if layer["group_out"]}
    known = [(group, curve) for curve in curves for group in groups if group["group"] == curve["group"]]
    found: dict[str, list[dict[str, Any]]] = {"groups": [], "curves": [], "layers": []}
    for index in range(layers):
        group, curve = known[index % len(known)]
        name = f"block{index // len(known)}.{group['group']}"
        found["groups"].append(group | {"group": name})
        found["curves"].append(curve | {"group": name})
        found["layers"].append(by_group[group["group"]] | {"layer": name, "group_in": None, "group_out": name})
    curves_of_all = result["curves"] | {"groups": found["curves"]}
    return {**result, "groups": found["groups"], "curves": curves_of_all, "layers": found["layers"], "front": None}


def opened(path: Path, times: int) -> list[float]:
    """The seconds until the page has loaded, each time in a fresh context."""
    from playwright.sync_api import sync_playwright

    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**BROWSER)
        for _ in range(times):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(path.as_uri())
            page.locator("footer button").wait_for()  # the script has run, too
            seconds.append(page.evaluate(LOADED) / 1000)
            context.close()
        browser.close()
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the JSON, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=160, help="of the model (default 160)")
    parser.add_argument("--times", type=int, default=7, help="that the page is opened (default 7)")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args(arguments)
    page = render(grown(json.loads(SAMPLE.read_text(encoding="utf-8")), given.layers))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        seconds = opened(path, given.times)
    document = {
        "benchmark": "opening", "layers": given.layers, "bytes": len(page.encode()),
        "seconds": round(statistics.median(seconds), 3), "all_seconds": [round(one, 3) for one in seconds],
    }  # fmt: skip
    text = json.dumps(document, indent=1)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
