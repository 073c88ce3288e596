"""TOML and YAML files, read as text that anybody may have written."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from workbench.faults import Faulty

LARGEST = 10**6  # bytes
SUFFIXES = (".toml", ".yaml", ".yml")


def parsed(path: Path, wrong: type[Faulty]) -> Any:
    """The content of a TOML or YAML file.

    Raises
    ------
    Faulty
        It is neither, or larger than such a file is; of the kind ``wrong``.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        It is YAML, and the extra is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise wrong(str(path), [f'the file is called "{path.name}"; a {wrong.what} ends with {", ".join(SUFFIXES)}'])
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise wrong(str(path), [f"the file has more than {LARGEST:,} bytes; a {wrong.what} is shorter"])
    try:
        text = content.decode()
        if path.suffix == ".toml":
            return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise wrong(str(path), [f"byte {error.start} is not UTF-8; save the file as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise wrong(str(path), [f"this is not TOML: {error}{_line(text, str(error))}"]) from None
    except RecursionError:
        raise wrong(str(path), [f"the file is nested too deeply; a {wrong.what} needs three levels"]) from None
    from workbench.yamlfile import parse

    return parse(text, path, wrong)


def _line(text: str, error: str) -> str:
    """The line, and what newcomers to TOML forget most where it looks like that."""
    line = re.search(r"line (\d+)", error)
    lines = text.splitlines()
    at = lines[int(line[1]) - 1].strip() if line and 0 < int(line[1]) <= len(lines) else ""
    bare = re.fullmatch(r"[\w.-]+\s*=\s*[A-Za-z][^\"']*", at)
    hint = "; texts stand in quotes" if bare else "; a key may stand once" if "overwrite" in error else ""
    return f"; the line is: {at[:60]}{hint}" if at else ""
