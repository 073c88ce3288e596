"""Seeds that follow from a text, so that whatever is drawn for one thing hangs on nothing that is drawn for others."""

from __future__ import annotations

import hashlib


def seed_of(text: str) -> int:
    """A seed of 56 bits, which every generator takes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
