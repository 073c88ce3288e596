"""Optional dependencies: asked for in one place, which names what to install."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

ONNX = ("onnx", "onnxscript", "onnxruntime")


def need(what: str, modules: Sequence[str], extra: str) -> None:
    """Say which modules of an extra are missing, before any of them is imported.

    Raises
    ------
    ModuleNotFoundError
        One is not installed.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{what} needs {', '.join(missing)}; pip install 'workbench[{extra}]'")
