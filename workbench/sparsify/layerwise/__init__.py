"""Layer by layer, without training: what leaves is chosen, and what stays makes up for it, by second moments.

A method is a function from a ``Problem``, a pattern and an amount to a ``Solution``.
"""

from __future__ import annotations
