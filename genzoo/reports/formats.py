"""Numbers as text: value, error and kind in one cell."""

from __future__ import annotations

import math

MINUS = "−"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits with a true minus sign; an en dash for no number."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return f"{MINUS}∞" if value < 0 else "∞"
    shown = f"{value:.{digits}f}"
    if float(shown) == 0:
        shown = shown.lstrip("-")
    return shown.replace("-", MINUS)


def digits_of(error: float | None) -> int:
    """Digits after the point so that the error keeps two figures; between 2 and 5."""
    if error is None or not math.isfinite(error) or error <= 0:
        return 3
    return min(max(1 - math.floor(math.log10(error)), 2), 5)


def with_error(value: float | None, error: float | None, kind: str | None = None, digits: int | None = None) -> str:
    """``2.310 ± 0.020 (bound)``; digits follow the error if they are not given."""
    if value is None or math.isnan(value):
        return "–"
    known = error is not None and math.isfinite(error) and math.isfinite(value)
    if digits is None:
        digits = digits_of(error if known else None)
    shown = number(value, digits) + (f" ± {error:.{digits}f}" if known else "")
    return f"{shown} ({kind})" if kind else shown


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``[−0.31, −0.20]``."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    shown = number(value, digits)
    return f"+{shown}" if value is not None and value > 0 and float(shown.replace("∞", "inf")) != 0 else shown


def count(value: float | None) -> str:
    """Whole number with thin spaces between thousands."""
    return "–" if value is None else f"{round(value):,}".replace(",", "\u202f")


def size(value: float | None) -> str:
    """``12.3k``, ``4.1M``."""
    if value is None or not math.isfinite(value):
        return "–"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``48 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
