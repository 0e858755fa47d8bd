"""Numbers and counts as people read them: three significant digits, and never 0.000."""

import math
from collections.abc import Mapping

from sae_analysis.wording import three_digits

MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
UNKNOWN = "\N{EN DASH}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_COUNT_UNITS: Mapping[str, float] = {"T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3}
_PLAIN_FROM, _PLAIN_BELOW = 1e-3, 1e5
_EXACT_COUNTS_BELOW = 10_000
_PERCENT_FROM = 1e-5


def number(value: float | None) -> str:
    """Return three significant digits, of any unit; a power of ten where plain digits would be mostly zeros.

    >>> number(0.07123), number(1.0), number(-12345.0)
    ('0.0712', '1.00', '−12,300')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    rounded = float(f"{mantissa}e{exponent}")
    if _PLAIN_FROM <= abs(rounded) < _PLAIN_BELOW:
        text = three_digits(value)
    else:
        text = f"{mantissa}{NO_BREAK}×{NO_BREAK}{power_of_ten(int(exponent))}"
    return text.replace("-", MINUS)


def signed(value: float | None) -> str:
    """Return ``number``, of any unit, with its sign always shown."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def tick(value: float) -> str:
    """Return a round number for an axis of any unit: no more digits than it has."""
    if value == 0 or _PLAIN_FROM <= abs(value) < _PLAIN_BELOW:
        return f"{value:,.10g}".replace("-", MINUS)
    mantissa, exponent = f"{value:.2e}".split("e")
    factor = mantissa.rstrip("0").rstrip(".").replace("-", MINUS)
    power = power_of_ten(int(exponent))
    return power if factor == "1" else f"{factor}{NO_BREAK}×{NO_BREAK}{power}"


def signed_tick(value: float) -> str:
    """Return ``tick``, of any unit, with its sign always shown."""
    return f"+{tick(value)}" if value > 0 else tick(value)


def power_of_ten(exponent: int) -> str:
    """Return ``10`` with a raised exponent."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def share(value: float | None) -> str:
    """Return a share of one as a percentage; below 0.001 % as a power of ten. Only exactly 1 reads 100 %."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return f"0{NO_BREAK}%"
    if value < _PERCENT_FROM:
        return number(value)
    digits = number(100 * value)
    if value < 1 and float(digits.replace(",", "")) >= 100:
        digits = ">99.9"
    return f"{digits.removesuffix('.0') if digits == '100.0' else digits}{NO_BREAK}%"


def count(value: int) -> str:
    """Return a count: exact below ten thousand, then three significant digits with k, M, B or T."""
    if value < _EXACT_COUNTS_BELOW:
        return f"{value:,}"
    for unit, size in _COUNT_UNITS.items():
        scaled = float(f"{value / size:.2e}")
        if scaled >= 1:
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f}{NO_BREAK}{unit}"
    return f"{value:,}"


def count_tick(value: float) -> str:
    """Return a round count, the unit being one, for an axis: no more digits than it has.

    >>> count_tick(2000.0), count_tick(20_000.0).replace(NO_BREAK, " ")
    ('2,000', '20 k')
    """
    digits, _, unit = count(round(value)).partition(NO_BREAK)
    return f"{float(digits):g}{NO_BREAK}{unit}" if unit else digits


def shortened(value: int, noun: str) -> str:
    """Return ``count`` with its noun in the right number; where it is to be exact, ``sae_analysis.wording.counted``.

    >>> shortened(231_504, "token").replace(NO_BREAK, " ")
    '232 k tokens'
    """
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"
