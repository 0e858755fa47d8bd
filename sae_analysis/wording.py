"""Words that reports, pages and errors share."""

import math
from collections.abc import Iterable
from reprlib import Repr

POOR_FIT = "POOR FIT, the mean explains more: nothing here can be trusted"

NOT_SEARCHED = "beginnings took the whole budget, and nothing was searched"


_SHORT = Repr()
_SHORT.maxlevel = 1
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: object) -> str:
    """Return what a file says, as a message shows it: a small part of what may be endless.

    >>> shown("k"), len(shown("k" * 1000))
    ("'k'", 60)
    """
    return _SHORT.repr(value)


def counted(count: int, noun: str) -> str:
    """Return a count, exact, with its noun in the right number.

    >>> counted(1, "token"), counted(2000, "token")
    ('1 token', '2,000 tokens')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object], most: int) -> str:
    """Return names in a row, of many the first ones and how many more there are.

    >>> listed([3, 5], 6), listed("abcd", 2)
    ('3, 5', 'a, b and 2 more')
    """
    each = [str(name) for name in names]
    more = len(each) - most
    return ", ".join(each[:most]) + (f" and {more:,} more" if more > 0 else "")


def three_digits(value: float) -> str:
    """Return a number of any unit to three significant digits, zeros at its end too, since it stands beside others.

    >>> three_digits(3.7), three_digits(12_345.0), three_digits(0.0)
    ('3.70', '12,300', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(f'{mantissa}e{exponent}'):,.{max(0, 2 - int(exponent))}f}"


def percent(share: float) -> str:
    """Return a share of one in per cent, as ``three_digits``.

    >>> percent(0.5), percent(1.07)
    ('50.0 %', '107 %')
    """
    return f"{three_digits(100 * share)} %"
