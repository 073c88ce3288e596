"""The style sheet and the script, read once and stripped of what only their authors read."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_STATIC = Path(__file__).parent / "static"


# What is quoted stays; space around these signs means nothing. No + and - in scripts: `a - -b` needs its space.
_STYLE = re.compile(r"""("[^"]*")|/\*.*?\*/|\s*([{};,])\s*|(:)\s+""", re.DOTALL)
_SCRIPT = re.compile(r"""("(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`)|\s*([{}()\[\];,=<>?:&|*!])\s*""")


@cache
def style(*names: str) -> str:
    """The named style sheets one after the other, without comments and needless space."""
    text = "".join((_STATIC / name).read_text(encoding="utf-8") for name in names)
    text = _STYLE.sub(lambda match: match[1] or match[2] or match[3] or "", text)
    # Nested rules need no `&` where a descendant is meant.
    text = re.sub(r"([{};,])& ", r"\1", text)
    return re.sub(r"\b0(\.\d)", r"\1", text).replace(";}", "}").strip()


@cache
def script(*names: str) -> str:
    """The named scripts as one, which leaves no name behind, without comments and needless space."""
    text = "".join((_STATIC / name).read_text(encoding="utf-8") for name in names)
    text = f'(() => {{\n"use strict";\n{text}}})();'
    text = re.sub(r"^\s*//.*\n", "", text, flags=re.MULTILINE)
    return _SCRIPT.sub(lambda match: match[1] or match[2], text).strip()


def source_hash(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
