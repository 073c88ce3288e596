"""The lock that keeps two batches from one folder, and says whose it is."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAME = ".lock"


@contextmanager
def locked(out: Path) -> Iterator[str]:
    """Hold the lock of a folder; says of whom a stale one was, or nothing.

    A lock is stale where its owner died: the system has let it go, and its words are still there. On another machine
    that cannot be known, so such a lock is believed.

    Raises
    ------
    ValueError
        Another batch runs there.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / NAME
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644), "r+") as file:
        free, owner = _taken(file), _owner(file.read(4096))
        elsewhere = bool(owner) and owner.get("host") != socket.gethostname()
        if not free or elsewhere:
            hint = f"; if that is gone, delete {path}" if free else "; wait for it, or give another --out"
            raise ValueError(f"{out} is in use by {_told(owner)}{hint}")
        file.seek(0)
        file.truncate()
        json.dump(_me(), file)
        file.flush()
        try:
            yield f"a lock of {_told(owner)} was stale" if owner else ""
        finally:
            file.seek(0)
            file.truncate()


def _taken(file: Any) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _me() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "user": _user(), "since": now}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name
        return str(os.getuid())


def _owner(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _told(owner: dict[str, Any]) -> str:
    if not owner:
        return "another batch"
    told = {key: str(owner.get(key, "?"))[:80] for key in ("pid", "host", "user", "since")}
    return "process {pid} of {user} on {host}, since {since}".format(**told)
