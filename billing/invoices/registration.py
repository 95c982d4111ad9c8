"""Registration numbers of issuers of qualified invoices (登録番号): `T` and the 13 digits of a corporate number.

The first digit checks the other twelve (法人番号の指定等に関する省令 2条): 9 − (Σ P·Q mod 9), P the digits from the
right, Q alternately 1 and 2. Issuers without a corporate number get 13 digits of the same form.
"""

import re

_NUMBER = re.compile(r"T([0-9])([0-9]{12})")


def is_registration_number(text: str) -> bool:
    """Whether `text` is a registration number whose check digit is right."""
    found = _NUMBER.fullmatch(text)
    return found is not None and int(found[1]) == check_digit(found[2])


def check_digit(body: str) -> int:
    """The digit that stands before the twelve digits `body`."""
    return 9 - sum(int(digit) * (1 + n % 2) for n, digit in enumerate(reversed(body))) % 9
