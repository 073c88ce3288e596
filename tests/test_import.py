"""Importing the package is cheap, and every public name is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import workbench as wb

HEAVY = {"matplotlib", "sklearn", "jinja2", "onnx"}


def modules_after(code: str) -> set[str]:
    """What a new interpreter has imported once it ran the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_is_cheap() -> None:
    assert not modules_after("import workbench") & (HEAVY | {"torch", "numpy"})


def test_all_public_names_together_are_cheap() -> None:
    found = modules_after("import workbench\nfor name in workbench.__all__: getattr(workbench, name)")
    assert "torch" in found
    assert not found & HEAVY


@pytest.mark.parametrize("name", wb.__all__)
def test_public_name(name: str) -> None:
    assert getattr(wb, name) is not None
    assert name in dir(wb)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'workbench' has no attribute 'prune'"):
        wb.prune  # noqa: B018  # the lookup is what is tested


def test_no_public_name_is_that_of_a_file() -> None:
    """Importing the file would put the module in the place of what it holds."""
    import workbench

    files = {path.stem for path in Path(workbench.__file__).parent.glob("*.py")}
    assert not files & set(workbench.__all__)
