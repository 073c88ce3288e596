"""The page and the notebook fragment around the one body they share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.report import archive, assets
from workbench.report.view import view
from workbench.whole import write_text

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"


def render(result: Mapping[str, Any]) -> str:
    """The result as a whole HTML page: no request, no pickle, no script but its own.

    The same result gives the same bytes, except between ``<!--run-->`` and ``<!--/run-->``, where the time, the
    machine and the command stand.

    Args:
        result: the JSON-able dict that ``Result.to_dict()`` returns.

    Raises:
        ValueError: if a key is missing, or a number in ``result`` is NaN or infinite.

    Example::

        page = render(result.to_dict())
        assert page.startswith("<!doctype html>")
    """
    style, script = assets.style("page.css", "report.css"), assets.script("sort.js", "report.js")
    return document("page.html", style, script, **_context(result))


def fragment(result: Mapping[str, Any]) -> str:
    """The body of :func:`render` for a notebook's ``_repr_html_``: every style rule holds inside the fragment only.

    Args:
        result: the JSON-able dict that ``Result.to_dict()`` returns.

    Raises:
        ValueError: if a key is missing, or a number in ``result`` is NaN or infinite.

    Example::

        IPython.display.HTML(fragment(result.to_dict()))
    """
    context = _context(result) | {"style": assets.style("report.css"), "script": assets.script("sort.js", "report.js")}
    return templates().get_template("fragment.html").render(context)


def write(result: Mapping[str, Any], path: str | Path) -> Path:
    """Write :func:`render` of the result to ``path`` (folders are made) and return the path.

    Args:
        result: the JSON-able dict that ``Result.to_dict()`` returns.
        path: where the HTML file goes; an existing file is replaced.

    Raises:
        ValueError: if a key is missing, or a number in ``result`` is NaN or infinite.

    Example::

        write(result.to_dict(), "reports/vgg.html")
    """
    page = render(result)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def document(template: str, style: str, script: str, *folders: Path, **context: Any) -> str:
    """A whole page with its style sheet and its script, and a policy that allows nothing else.

    Its template is in one of the folders, or of this package; it may include those of this package.
    """
    policy = (
        f"default-src 'none'; style-src {assets.source_hash(style)}; script-src {assets.source_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return templates(*folders).get_template(template).render(context, style=style, script=script, policy=policy)


def _context(result: Mapping[str, Any]) -> dict[str, Any]:
    try:
        packed = archive.pack(result)  # first, since it says what is wrong with a NaN
        return view(result) | {"archive": packed}
    except KeyError as missing:
        raise ValueError(
            f"the result has no {missing.args[0]!r}; pass the dict that Result.to_dict() returns, unchanged"
        ) from missing


@cache
def templates(*folders: Path) -> jinja2.Environment:
    """The templates of some folders and of this package, which escape what they print."""
    import jinja2  # here and not above: `import workbench` must stay cheap

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
