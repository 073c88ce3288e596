"""The report: a result as one HTML file that can be mailed, or as a fragment for a notebook.

The data flow is result dict -> view (plain strings and numbers) -> SVG strings -> Jinja template. The views and figures
compute; the templates only place what they are given.
"""

from __future__ import annotations

from workbench.report.comparison import compare
from workbench.report.page import fragment, render, write

__all__ = ["compare", "fragment", "render", "write"]
