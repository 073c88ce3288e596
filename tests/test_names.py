"""Layers whose names are no identifiers go all the way: kept in the own class, factorised, reported, restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import workbench as wb

NAMES = ("3x3", "conv-2", "lambda", "</script><img src=x onerror=hit()>", "\u202e{{7*7}}'\"", "x" * 300)


class Named(nn.Module):
    """``sizes``: the forward holds sizes of its own, so that a smaller model is a rewritten one."""

    def __init__(self, sizes: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.blocks = nn.ModuleDict({name: nn.Conv2d(8 if place else 1, 8, 3) for place, name in enumerate(NAMES)})
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks.values():
            x = block(x).relu()
        x = x.mean((2, 3))
        return self.head(x.view(-1, 8) if self.sizes else x)


@pytest.mark.parametrize("rank", [False, True], ids=["channels", "rank"])
@pytest.mark.parametrize("sizes", [False, True], ids=["class", "rewritten"])
def test_names_that_are_no_identifiers(sizes: bool, rank: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Named(sizes).eval(), torch.randn(32, 1, 16, 16)
    study = wb.Study(model, x[:1], calibration=x, refinement=wb.Refinement(steps=4))
    settings = {"head": wb.Ratio(0.5), "blocks.conv-2": wb.Rank("spatial_svd", 4) if rank else wb.Ratio(0.5)}
    result = study.compress(study.by_hand(settings))
    assert result.verification.ok
    assert isinstance(result.model, Named) != sizes
    assert [row["layer"] for row in result.layers()] == [*(f"blocks.{name}" for name in NAMES), "head"]
    report = result.report(tmp_path / "report.html").read_text()
    assert report == result.report(tmp_path / "again.html").read_text()
    assert "<img src=x" not in report
    again = wb.restore(Named(sizes), result.save(tmp_path / "small"))
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
