"""Words that reports, pages and errors share."""

POOR_FIT = "POOR FIT, the mean explains more: nothing here can be trusted"

NOT_SEARCHED = "beginnings took the whole budget, and nothing was searched"


def counted(count: int, noun: str) -> str:
    """Return a count, exact, with its noun in the right number.

    >>> counted(1, "token"), counted(2000, "token")
    ('1 token', '2,000 tokens')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
