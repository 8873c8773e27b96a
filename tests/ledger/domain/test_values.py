from datetime import UTC, datetime

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import (
    AMOUNT_MAX,
    check_currency,
    format_amount,
    parse_amount,
    parse_signed,
)
from ledger.domain.times import parse_moment, parse_time
from ledger.errors import InvalidInputError


class TestParseAmount:
    @pytest.mark.parametrize(
        ("text", "currency", "minor"),
        [
            ("10.00", "EUR", 1000),
            ("0.1", "EUR", 10),
            ("100", "JPY", 100),
            ("1.234", "BHD", 1234),
            ("9999999999999.99", "EUR", AMOUNT_MAX),
        ],
    )
    def test_reads_plain_decimals(self, text: str, currency: str, minor: int) -> None:
        assert parse_amount(text, currency) == minor

    @pytest.mark.parametrize(
        "text",
        [
            "1e3", "1E+2", "1e-2", "1E1000000000", "9" * 100_000, "0." + "0" * 200_000 + "1",
            "NaN", "sNaN", "Infinity", "-Inf", "-1.00", "-0.00", "+1", "", " 1", "1 ", "01", ".5",
            "1.", "1,50", "1.000.00", "1'000", "(12.50)", "12.50-", "€ 10", "0", "0.00", "１", "1_000",
            "1.234", "10.005", "10000000000000.00",
            10, 10.5, None, True, [], {},
        ],
    )  # fmt: skip
    def test_refuses_everything_else(self, text: object) -> None:
        with pytest.raises(InvalidInputError) as caught:
            parse_amount(text, "EUR")
        assert len(caught.value.detail) < 250

    @pytest.mark.parametrize("text", ["100.50", "100.0"])
    def test_yen_has_no_decimals(self, text: str) -> None:
        with pytest.raises(InvalidInputError, match="JPY has 0"):
            parse_amount(text, "JPY")

    @given(
        minor=st.integers(1, AMOUNT_MAX),
        currency=st.sampled_from(["JPY", "EUR", "BHD", "CLF"]),
        sign=st.sampled_from([1, -1]),
    )
    def test_round_trips(self, minor: int, currency: str, sign: int) -> None:
        assert parse_signed(format_amount(sign * minor, currency), currency) == sign * minor

    def test_zero_has_no_sign(self) -> None:
        assert format_amount(0, "EUR") == "0.00"
        with pytest.raises(InvalidInputError):
            parse_signed("-0.00", "EUR")


class TestCurrencies:
    def test_agree_with_iso(self) -> None:
        current = {
            item.code: item.exponent for item in iso4217.Currency if item.exponent is not None
        }
        missing = {
            code: exponent for code, exponent in current.items() if EXPONENTS.get(code) != exponent
        }
        assert set(missing) <= {"XXX", "XTS"}, missing

    def test_keep_withdrawn_codes(self) -> None:
        assert EXPONENTS["HRK"] == 2

    @pytest.mark.parametrize("code", ["eur", " EUR ", "EURO", "", None, "XXX", "978", 978])
    def test_have_one_spelling(self, code: object) -> None:
        with pytest.raises(InvalidInputError):
            check_currency(code)


class TestParseTime:
    def test_reads_rfc3339_into_utc(self) -> None:
        expected = datetime(2025, 6, 1, 10, 0, 0, 123456, tzinfo=UTC)
        assert parse_time("2025-06-01T12:00:00.123456+02:00", field="x") == expected

    @pytest.mark.parametrize(
        "text",
        [
            "2025-10-26T02:30:00", "2025-06-01T12:00:00 02:00", "2016-12-31T23:59:60Z",
            "2025-01-01T24:00:00Z", "0001-01-01T00:00:00+05:00", "9999-12-31T23:30:00-05:00",
            "2025-01-01T00:00:00.123456789Z", "2025-02-30T00:00:00Z", "2025-01-01", "now", "", 5, None,
            "2025-01-01T00:00:00+0200", "２025-01-01T00:00:00Z", "2025-01-01T00:00:00Z\n",
        ],
    )  # fmt: skip
    def test_refuses_everything_else(self, text: object) -> None:
        with pytest.raises(InvalidInputError) as caught:
            parse_time(text, field="as_of")
        assert caught.value.field == "as_of"

    def test_a_date_means_the_end_of_that_day(self) -> None:
        expected = datetime(2025, 6, 30, 23, 59, 59, 999999, tzinfo=UTC)
        assert parse_moment("2025-06-30", field="as_of") == expected

    def test_says_how_to_write_a_plus(self) -> None:
        with pytest.raises(InvalidInputError, match="%2B"):
            parse_time("2025-06-01T12:00:00 02:00", field="as_of")
