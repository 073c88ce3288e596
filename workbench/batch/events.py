"""Events: what happens in a batch, as plain dicts that go to whoever wants to know.

Every event has ``event`` and ``time``, those of a run ``run``, of a search ``search``. They are ``batch_started``,
``search_started``, ``search_finished``, ``run_started``, ``planned``, ``run_finished`` (with the ``summary`` of its
figures), ``run_failed`` (with ``reason`` and ``log``), ``process_died`` and ``batch_finished``.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


def now() -> str:
    """The time of an event."""
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")


class JsonLines:
    """Adds each event to a file, one line each, on the disk as soon as it is told."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, event: Event) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


class Announcer:
    """Tells events to several listeners, one at a time and in order, from whatever thread they come.

    One that raises is not asked again, and ``lost`` says why: a tracker that is down must not end a night's work.
    """

    def __init__(self, listeners: Sequence[OnEvent]):
        self.listeners = list(listeners)
        self.lost: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        event = {"time": now(), **event}
        with self.lock:
            for listener in list(self.listeners):
                try:
                    listener(dict(event))
                except Exception as error:  # whatever a tracker raises
                    self.listeners.remove(listener)
                    name = getattr(listener, "__qualname__", type(listener).__qualname__)
                    self.lost.append(f"{name} is told no more events: {type(error).__name__}: {error}")
