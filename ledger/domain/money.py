"""Amounts of money: integer minor units inside, decimal strings outside, never a float."""

import re

from ledger.domain.currencies import EXPONENTS
from ledger.errors import InvalidInputError

AMOUNT_MAX = 10**15 - 1
"""Largest amount of one command and largest absolute balance, in minor units (DESIGN section 4).
It keeps every JSON integer below 2**53 (RFC 8785)."""

_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([0-9]{1,4}))?", re.ASCII)


def check_currency(code: object, *, field: str = "currency") -> str:
    """Return `code` if it is a known ISO 4217 code in upper case.

    Raises:
        InvalidInputError: it is not; codes are not trimmed or upper-cased, so that one currency
            has one spelling on every surface.
    """
    if not isinstance(code, str) or code not in EXPONENTS:
        raise InvalidInputError(
            f"{_shown(code)} is not a currency: use an ISO 4217 code in capitals such as EUR",
            field=field,
        )
    return code


def parse_amount(text: object, currency: str, *, field: str = "amount") -> int:
    """Return the minor units of a decimal string such as ``"12.50"``.

    Plain digits with at most the currency's number of decimals; no sign, blank, exponent,
    thousands separator or leading zero. Zero is refused.

    Raises:
        InvalidInputError: it is not such a string, or is out of range.
    """
    minor = parse_amount_or_zero(text, currency, field=field)
    if minor == 0:
        raise InvalidInputError("must be greater than zero", field=field)
    return minor


def parse_amount_or_zero(text: object, currency: str, *, field: str = "amount") -> int:
    """As `parse_amount`, but zero is allowed (an overdraft limit)."""
    exponent = EXPONENTS[currency]
    example = "1250" if exponent == 0 else "1250." + "0" * exponent
    if not isinstance(text, str):
        raise InvalidInputError(
            f'must be a string of decimal digits such as "{example}": send amounts as strings, '
            "since JSON numbers lose cents",
            field=field,
        )
    match = _DECIMAL.fullmatch(text) if len(text) <= 20 else None
    if match is None:
        raise InvalidInputError(
            f'{_shown(text)} is not an amount: use plain digits such as "{example}", '
            "without sign, exponent or separators",
            field=field,
        )
    whole, decimals = match.group(1), match.group(2) or ""
    if len(decimals) > exponent:
        raise InvalidInputError(
            f"{_shown(text)} has {len(decimals)} decimals: {currency} has {exponent}",
            field=field,
        )
    minor = int(whole + decimals.ljust(exponent, "0"))
    if minor > AMOUNT_MAX:
        raise InvalidInputError(
            f"{_shown(text)} is too large: at most {format_amount(AMOUNT_MAX, currency)}",
            field=field,
        )
    return minor


def parse_signed(text: object, currency: str, *, field: str = "amount") -> int:
    """As `parse_amount`, with an optional leading minus (adjustments, imported balances)."""
    if isinstance(text, str) and text.startswith("-"):
        return -parse_amount(text[1:], currency, field=field)
    return parse_amount_or_zero(text, currency, field=field)


def format_amount(minor: int, currency: str) -> str:
    """The decimal string of `minor` units: ``format_amount(-1250, "EUR") == "-12.50"``."""
    exponent = EXPONENTS[currency]
    sign = "-" if minor < 0 else ""
    digits = str(abs(minor))
    if exponent == 0:
        return sign + digits
    digits = digits.rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return f'"{text[:24]}…"' if len(text) > 25 else f'"{text}"'
