"""Moments as people type them: "3pm yesterday", "2026-03-31 14:02", in the reader's time zone.

A day without a time means through its end, as everywhere in the ledger. What could be read in two
ways (01/02/2026) or does not exist on that day (the hour that is left out in spring) is refused; the
hour that comes twice in autumn is the first of the two. The page always shows what was understood.
"""

import re
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

from dateparser.date import DateDataParser

from ledger.domain.times import EARLIEST, parse_time
from ledger.errors import InvalidInputError

TEXT_MAX = 60
_ISO_LOCAL = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?))?", re.ASCII | re.IGNORECASE
)
_AMBIGUOUS = re.compile(r"\d{1,4}[./-]\d{1,2}([./-]\d{1,4})?(\s|$)", re.ASCII)
_HINT = 'write it like 2026-03-31 14:02, "3pm yesterday" or "2 hours ago"'


def zone_of(name: str, *, field: str = "zone") -> ZoneInfo:
    """The time zone called `name`, UTC if empty.

    Raises:
        InvalidInputError: there is none.
    """
    if name and not re.fullmatch(r"[A-Za-z0-9_+\-/]{1,64}", name, re.ASCII):
        raise InvalidInputError("must be a time zone such as Europe/Berlin", field=field)
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, OSError, ValueError) as error:
        raise InvalidInputError(
            f'"{name}" is not a time zone: give one such as Europe/Berlin', field=field
        ) from error


def parse_spoken(text: str, *, zone: ZoneInfo, now: datetime, field: str) -> datetime:
    """The UTC moment that `text` means to a reader in `zone` at `now`.

    Raises:
        InvalidInputError: it cannot be read, can be read in two ways, or does not exist.
    """
    text = text.strip()
    if len(text) > TEXT_MAX or not text.isprintable():
        raise InvalidInputError(f"is too long or not printable: {_HINT}", field=field)
    match = _ISO_LOCAL.fullmatch(text)
    if match is not None:
        return _local(match[1], match[2], zone, field)
    if re.match(r"\d{4}-\d\d-\d\d[Tt]", text, re.ASCII):
        return parse_time(text, field=field)
    if _AMBIGUOUS.match(text):
        raise InvalidInputError(f'"{text}" can be read in two ways: {_HINT}', field=field)
    base = now.astimezone(zone).replace(tzinfo=None)
    parser = DateDataParser(
        languages=["en"],
        settings={
            "RELATIVE_BASE": base,
            "PREFER_DATES_FROM": "past",
            "RETURN_TIME_AS_PERIOD": True,
            "RETURN_AS_TIMEZONE_AWARE": False,
        },
    )
    found = parser.get_date_data(text)
    if found.date_obj is None or found.period not in ("day", "time"):
        raise InvalidInputError(f'"{text}" cannot be read as a moment: {_HINT}', field=field)
    local = found.date_obj.replace(tzinfo=None)
    if found.period == "day" and not re.search(r"\b(now|ago|hour|minute|second)", text.lower()):
        if local.date() == base.date():
            return now
        local = datetime.combine(local.date(), time.max)
    return _aware(local, zone, text, field)


def _local(day: str, at: str | None, zone: ZoneInfo, field: str) -> datetime:
    text = f"{day} {at}" if at else day
    try:
        local = (
            datetime.fromisoformat(f"{day}T{at}")
            if at
            else datetime.combine(datetime.fromisoformat(day), time.max)
        )
    except ValueError as error:
        raise InvalidInputError(f'"{text}" does not exist: {error}', field=field) from error
    return _aware(local, zone, text, field)


def _aware(local: datetime, zone: ZoneInfo, text: str, field: str) -> datetime:
    try:
        moment = local.replace(tzinfo=zone).astimezone(UTC)
        back = moment.astimezone(zone).replace(tzinfo=None)
    except (OverflowError, ValueError) as error:
        raise InvalidInputError(f'"{text}" is out of range', field=field) from error
    if moment < EARLIEST:
        raise InvalidInputError(f'"{text}" is before the year 1900', field=field)
    if back != local:
        raise InvalidInputError(
            f'"{text}" does not exist in {zone.key}: clocks went forward there, to {back:%H:%M}',
            field=field,
        )
    return moment
