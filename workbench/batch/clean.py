"""Cleaning up: what killed and failed runs have left, and, if asked for, what searches keep or whole runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from workbench.batch.folder import Folder
from workbench.batch.lock import NAME, locked


def remains(out: Path, *, failed: bool = True, searches: bool = False, runs: Sequence[str] = ()) -> list[Path]:
    """What ``clean`` would remove; nothing that a batch did not make, and nothing through a link.

    Parameters
    ----------
    out : the folder of a batch
    failed : also logs and reasons of failed runs
    searches : also what searches have finished, without which they start anew
    runs : names of finished runs that shall go, too

    Raises
    ------
    ValueError
        The folder is of no batch, or holds no run of such a name.
    """
    folder = Folder(out)
    if not (out / NAME).is_file():
        raise ValueError(f"{out} is no folder of a batch; name the one that was given as --out")
    unknown = [name for name in runs if name not in folder.names()]
    if unknown:
        raise ValueError(f"{out} holds no finished run {unknown[0]!r}; workbench list {out} shows those there are")
    found = list(folder.remains())
    found += [folder.failed(name) for name in folder.failures()] if failed else []
    found += sorted((out / "searches").glob("*")) if searches else []
    found += [folder.run(name) for name in runs]
    return [path for path in found if not path.is_symlink()]


def clean(out: Path, paths: Sequence[Path]) -> None:
    """Remove what ``remains`` named, while no batch runs there.

    Raises
    ------
    ValueError
        A batch runs there.
    """
    with locked(out):
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
