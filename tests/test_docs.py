"""The pages of docs/ and the README: examples run, links lead somewhere, commands and error messages exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from workbench import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
TEXTS = [*PAGES, README, ROOT / "CONTRIBUTING.md"]
BY_NAME = {path.stem: path for path in PAGES}
ANYTHING = "…"
REAL = ("latency",)  # what is timed must take some time


@pytest.fixture
def figures() -> Iterator[None]:
    """No window, and no figure is left open."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("path", [*PAGES, README], ids=lambda path: path.stem)
def test_examples_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """All of a page, one after the other, on a narrow network with few images."""
    if path.stem not in REAL:
        request.getfixturevalue("small_zoo")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)):
        exec(compile(example, f"{path.name}, example {number + 1}", "exec"), names)


def test_the_readme_begins_with_a_short_example() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 15


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = unquote(target).partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{path.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_commands_are_commands(path: Path) -> None:
    """Each command that a page shows has only options that there are."""
    for line in re.findall(r"^ {4}(workbench .*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        arguments = shlex.split(line, comments=True)[1:]
        assert hasattr(cli._parser().parse_args(arguments), "run"), line


def test_quoted_messages_are_in_the_source() -> None:
    said = messages()
    quoted = re.findall(r"^> (.*)$", BY_NAME["troubleshooting"].read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 20
    assert [message for message in quoted if not any(message in one for one in said)] == []


def messages() -> set[str]:
    """All texts of the package, with ``…`` where a value is put in."""
    found = set()
    for path in (ROOT / "workbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else ANYTHING for part in node.values)
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in PAGES)


def test_the_site_is_made(tmp_path: Path) -> None:
    """As ``make docs`` does; each warning, as of a link that leads nowhere, is an error."""
    pytest.importorskip("mkdocs", reason="needs: pip install mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "concepts.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//[^"' >]*""", page.replace("https://www.mkdocs.org/", ""))
