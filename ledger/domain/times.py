"""Times as text: RFC 3339 with an offset, nothing looser."""

import re
from datetime import UTC, date, datetime, time

from ledger.errors import InvalidInputError

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def parse_time(text: object, *, field: str) -> datetime:
    """The UTC datetime of an RFC 3339 string with offset, at most microseconds.

    Raises:
        InvalidInputError: no offset, more than six decimals, a date or time that does not exist
            (24:00, leap seconds included), or outside the years 1900 to 8999.
    """
    if not isinstance(text, str):
        raise InvalidInputError("must be a string such as 2026-03-31T12:00:00Z", field=field)
    match = _RFC3339.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        hint = ""
        if re.fullmatch(r"\S+ \d\d:\d\d", text[:40]):
            hint = "; a + in a URL must be written %2B"
        raise InvalidInputError(
            f'"{text[:40]}" is not a time: use RFC 3339 with an offset and at most six decimals, '
            f"such as 2026-03-31T12:00:00Z or 2026-03-31T14:00:00+02:00{hint}",
            field=field,
        )
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f'"{text}" does not exist: {error}', field=field) from error
    if not EARLIEST <= moment < LATEST:
        raise InvalidInputError(f'"{text}" is outside the years 1900 to 8999', field=field)
    return moment


def parse_moment(text: object, *, field: str) -> datetime:
    """As `parse_time`; a plain date means through the end of that day in UTC."""
    if isinstance(text, str) and _DATE.fullmatch(text):
        try:
            day = date.fromisoformat(text)
        except ValueError as error:
            raise InvalidInputError(f'"{text}" is not a date: {error}', field=field) from error
        return datetime.combine(day, time.max, tzinfo=UTC)
    return parse_time(text, field=field)
