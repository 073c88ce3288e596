"""The page about sparsity: the tests it names exist, the lines it shows are code that runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import sparsify as sp

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "docs" / "sparsity.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]
LINES = [code for row in ROWS for code in re.findall(r"`((?:sp|wb)\.[^`]+)`", row[1])]
LINES += [code for code in re.findall(r"`((?:sp)\.[^`]+)`", PAGE) if "(" in code and "\n" not in code]


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(\w+\.py::\w+)`", PAGE))))
def test_a_named_test_exists(named: str) -> None:
    file, _, test = named.partition("::")
    assert re.search(rf"^def {test}\(", (HERE / file).read_text(), re.MULTILINE), named


@pytest.mark.parametrize("line", sorted(set(LINES)))
def test_a_line_runs(line: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(8, 4)
    given = {
        "sp": sp, "wb": wb, "model": model, "x": x, "graph": wb.trace(model, x),
        "masks": sp.prune(model, 0.5), "function": lambda view: view.weight,
        "plan": type("Plan", (), {"kept": {}, "units": {}}), "config_list": [],
        "recipe": "modifiers:\n- !ConstantPruningModifier {start_epoch: 0}",
    }  # fmt: skip
    assert eval(line, given) is not None


def test_the_recipe_is_one() -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    program = sp.read_recipe(tomllib.loads(text))
    assert program.winnow
    assert program.recipe.stages == (
        sp.Prune(sp.Cubic(0.5, 4.0), sp.Rule(sp.Taylor(), sp.Channels()), 0.5),
    )  # fmt: skip


def test_every_row_has_three_columns_and_names_a_test() -> None:
    assert len(ROWS) > 30
    assert all(len(row) == 3 for row in ROWS)
