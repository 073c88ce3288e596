"""Parts of installed packages without what their ``__init__`` imports, which no network needs."""

from __future__ import annotations

import sys
import types
from pathlib import Path


def folder_of(name: str, install: str) -> Path:
    """Where a package is installed; ``install`` is the command that a reader without it is told."""
    for entry in sys.path:
        folder = Path(entry or ".") / name
        if (folder / "__init__.py").is_file():
            return folder
    raise ModuleNotFoundError(f"{name} is not installed: {install}")


def bare(name: str, folder: Path, **attributes: object) -> None:
    """Register a package that has only its modules, and these attributes."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    package.__dict__.update(attributes)
    sys.modules[name] = package
