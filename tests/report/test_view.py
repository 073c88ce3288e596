"""The data of the page."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest

from workbench.refine import Refined
from workbench.report.view import layers, sensitivity


def test_groups_of_different_sizes_share_the_columns_of_the_heat_map() -> None:
    def group(name: str, units: int) -> dict[str, Any]:
        kept = sorted({max(1, round(tenth / 10 * units)) for tenth in range(1, 10)})
        points = [
            {
                "share": k / units,
                "kept": k,
                "degradation": 0.1,
                "low": None,
                "high": None,
                "fitted": 0.1,
                "failed": None,
            }
            for k in kept
        ]
        return {"group": name, "units": units, "points": points}

    swept = {"metric": "score", "samples": 9, "baseline": 1.0, "groups": [group("heads", 6), group("wide", 288)]}
    groups = [{"group": name, "units": units, "kept": range(units)} for name, units in (("heads", 6), ("wide", 288))]
    seen = sensitivity.view({"curves": swept, "groups": groups})
    assert seen is not None
    assert seen["shares"] == ["90", "80", "70", "60", "50", "40", "30", "20", "10"]
    heads, wide = ([cell["css"] != "none" for cell in row["cells"]] for row in seen["rows"])
    assert sum(heads) == 5
    assert all(wide)


@pytest.mark.parametrize(
    ("refined", "said"),
    [
        (None, ""),
        (Refined(0.02, 0.013, gained=7, samples=8, steps=300), r"lowered .* from 2.0\s% to 1.3\s%"),
        (Refined(0.02, 0.03, gained=1, samples=8, steps=300), "not kept.* fell for 1 of 8"),
        (Refined(0.02, 0.019, gained=4, samples=8, steps=300), "not kept.* fell for 4 of 8"),
        (Refined(0.02, 0.02, 0, 8, steps=300, failed="no grad"), "could not .*: no grad"),
    ],
)
def test_the_refinement_is_told_in_a_sentence(refined: Refined | None, said: str) -> None:
    told = refined and asdict(refined) | {"kept": refined.kept}
    result = {"curves": None, "groups": [], "layers": [], "refinement": told}
    sentence = layers.view(result)["refinement"]
    assert re.search(said, sentence)
    assert bool(sentence) == bool(refined)
