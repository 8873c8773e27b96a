"""Moments as people type them, in their own zone."""

from datetime import UTC, datetime

import pytest

from audit.spoken import parse_spoken, zone_of
from ledger.errors import InvalidInputError

NOW = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)  # a Thursday
BERLIN = zone_of("Europe/Berlin")


def said(text: str, zone: str = "Europe/Berlin") -> str:
    found = parse_spoken(text, zone=zone_of(zone), now=NOW, field="as_of")
    assert found.tzinfo is UTC
    return found.isoformat()


class TestSpoken:
    @pytest.mark.parametrize(
        ("text", "zone", "moment"),
        [
            ("3pm yesterday", "Europe/Berlin", "2026-11-25T14:00:00+00:00"),
            ("yesterday at 3pm", "America/New_York", "2026-11-25T20:00:00+00:00"),
            ("yesterday 15:00", "UTC", "2026-11-25T15:00:00+00:00"),
            ("monday 9:30", "Europe/Berlin", "2026-11-23T08:30:00+00:00"),
            ("2 hours ago", "Asia/Kathmandu", "2026-11-26T08:00:00+00:00"),
            ("2 days ago", "Europe/Berlin", "2026-11-24T10:00:00+00:00"),
            ("now", "Pacific/Kiritimati", "2026-11-26T10:00:00+00:00"),
            ("today", "Europe/Berlin", "2026-11-26T10:00:00+00:00"),
            # A day means through its end, in the reader's zone.
            ("yesterday", "Europe/Berlin", "2026-11-25T22:59:59.999999+00:00"),
            ("31 March 2026", "Europe/Berlin", "2026-03-31T21:59:59.999999+00:00"),
            ("2026-03-31", "Asia/Tokyo", "2026-03-31T14:59:59.999999+00:00"),
            ("2026-03-31", "UTC", "2026-03-31T23:59:59.999999+00:00"),
            ("2026-03-31 14:02", "Europe/Berlin", "2026-03-31T12:02:00+00:00"),
            ("2026-03-31T14:02:11.123456", "Europe/Berlin", "2026-03-31T12:02:11.123456+00:00"),
            ("2026-03-31T14:02:11Z", "Europe/Berlin", "2026-03-31T14:02:11+00:00"),
            ("2026-03-31T14:02:11+05:30", "Europe/Berlin", "2026-03-31T08:32:11+00:00"),
            # The hour that comes twice is the first of the two; a day of 25 hours ends at its end.
            ("2026-10-25 02:30", "Europe/Berlin", "2026-10-25T00:30:00+00:00"),
            ("2026-10-25", "Europe/Berlin", "2026-10-25T22:59:59.999999+00:00"),
        ],
    )
    def test_understood(self, text: str, zone: str, moment: str) -> None:
        assert said(text, zone) == moment

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("01/02/2026", "two ways"),
            ("10.3.2026 14:00", "two ways"),
            ("2026-13-01", "does not exist"),
            ("2026-02-30 10:00", "does not exist"),
            ("2026-03-29 02:30", "clocks went forward"),
            ("2026-03-31 24:00", "does not exist"),
            ("2026-06-30T23:59:60Z", "does not exist"),
            ("banana", "cannot be read"),
            ("", "cannot be read"),
            ("march", "cannot be read"),
            ("1 000 000 years ago", "cannot be read"),
            ("1800-01-01", "before the year 1900"),
            ("x" * 100, "too long"),
            ("yester\x00day", "not printable"),
        ],
    )
    def test_refused_with_the_reason(self, text: str, problem: str) -> None:
        with pytest.raises(InvalidInputError, match=problem):
            said(text)

    @pytest.mark.parametrize("name", ["Europe/Nowhere", "../etc/passwd", "Europe", "Ü", "a" * 80])
    def test_no_such_zone(self, name: str) -> None:
        with pytest.raises(InvalidInputError, match="time zone"):
            zone_of(name)
