"""Numbers as a reader wants them: SI prefixes, true minus signs, no line break inside."""

from __future__ import annotations

import math

NONE = "\u2013"  # an en dash
_SPACE = "\u00a0"
_PREFIXES = ("", "k", "M", "G", "T", "P")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def si(value: float | None, unit: str = "") -> str:
    """Three significant digits and an SI prefix.

    Example:
        >>> si(29_275_904).replace("\\u00a0", " "), si(400_000, "B").replace("\\u00a0", " ")
        ('29.3 M', '400 kB')
    """
    if value is None:
        return NONE
    step = 0
    while step < len(_PREFIXES) - 1 and abs(value) >= 999.5 * 1000**step:
        step += 1
    text = _significant(value / 1000**step, 3)
    symbol = _PREFIXES[step] + unit
    return text + (_SPACE + symbol if symbol else "")


def count(value: int | None) -> str:
    """An integer with a comma at each thousand."""
    return NONE if value is None else f"{value:,}"


def things(value: int | None, noun: str) -> str:
    """So many of something: ``1 thread``, ``2 threads``."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    return NONE if share is None else _minus(f"{100 * share:.1f}") + _SPACE + "%"


def whole_percent(share: float) -> str:
    """A share as a percentage, with decimals only where it has some."""
    return f"{100 * share:.4g}{_SPACE}%"


def score(value: float | None) -> str:
    """A score or a difference of scores: four decimals, or five digits where it is large."""
    if value is None:
        return NONE
    return _minus(f"{value:z.4f}" if abs(value) < 10 else f"{value:.5g}")


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return NONE if value is None else ("+" if value > 0 else "") + score(value)


def loss(value: float | None, digits: int = 3) -> str:
    """A measured degradation: three significant digits, but at most four decimals."""
    if value is None:
        return NONE
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value else 0
    return _minus(f"{value:z.{min(4, max(0, decimals))}f}")


def spread(value: float, low: float, high: float) -> str:
    """An interval around a value: its half-width, or its ends where the value is not in their middle.

    Example:
        >>> spread(0.5, 0.4, 0.6), spread(0.5, 0.4, 0.9)
        ('±0.10', '0.400 to 0.900')
    """
    half = (high - low) / 2
    if abs(value - (low + high) / 2) <= 0.05 * half:
        return f"±{loss(half, digits=2)}"
    return f"{loss(low)} to {loss(high)}"


def tick(value: float) -> str:
    """A value on an axis, with no more digits than it needs."""
    return _minus(f"{value:g}")


def power(value: float | None) -> str:
    """Two digits and a power of ten, for errors near machine precision.

    Example:
        >>> power(1.2e-7) == "1.2\\u202f\\u00d7\\u202f10⁻⁷"
        True
    """
    if value is None:
        return NONE
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    mantissa = float(f"{value / 10.0**exponent:.2g}")
    if abs(mantissa) >= 10:  # 9.96 rounds to 10
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{_minus(f'{mantissa:g}')}\u202f\u00d7\u202f10{str(exponent).translate(_SUPERSCRIPT)}"


def seconds(value: float | None) -> str:
    """A duration in milliseconds, seconds, minutes or hours."""
    if value is None:
        return NONE
    for limit, factor, unit in ((1, 1000, "ms"), (120, 1, "s"), (7200, 1 / 60, "min")):
        if value < limit:
            return _significant(value * factor, 3) + _SPACE + unit
    return _significant(value / 3600, 3) + _SPACE + "h"


def _significant(value: float, digits: int) -> str:
    rounded = float(f"{value:.{digits}g}")
    if rounded == int(rounded) and (value == int(value) or abs(rounded) >= 10 ** (digits - 1)):
        return _minus(str(int(rounded)))
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return _minus(f"{rounded:.{decimals}f}")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
