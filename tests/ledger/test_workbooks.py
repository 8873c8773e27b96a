"""Workbooks are read as the digits that were typed, and a bad one is said to be bad."""

import io
import random
import zipfile
from datetime import date, datetime
from typing import Any

import openpyxl
import pytest

from ledger import imports, workbooks
from ledger.domain.money import format_amount, parse_amount
from ledger.errors import InvalidInputError


def workbook(rows: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)  # type: ignore[union-attr]  # a new workbook has a sheet
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


HEADER = ["trans_id", "account_id", "date", "type", "amount", "balance"]


class TestRead:
    def test_the_same_rows_as_from_csv(self) -> None:
        rows: list[list[Any]] = [
            HEADER,
            [1, 18, date(2026, 3, 1), "credit", 1000, 1000],
            [2, 18, "2026-03-02", "withdrawal", 0.1, 999.9],
            [3, 18, 260303, "withdrawal", "12.34", "987.56"],
        ]
        parsed = imports.parse(imports.decode(workbook(rows)), imports.Options())
        assert parsed.errors == []
        assert [row.amount for row in parsed.rows] == [100_000, -10, -1_234]
        text = "\n".join(
            [",".join(HEADER), "1,18,2026-03-01,credit,1000,1000",
             "2,18,2026-03-02,withdrawal,0.1,999.9", "3,18,260303,withdrawal,12.34,987.56"]
        )  # fmt: skip
        assert parsed.rows == imports.parse(text, imports.Options()).rows

    def test_amounts_of_up_to_fifteen_digits_come_back_to_the_cent(self) -> None:
        dice = random.Random(6)
        minor = [dice.randrange(1, 10 ** dice.randrange(1, 16)) for _ in range(2000)]
        sheet = workbook([[float(format_amount(item, "EUR"))] for item in minor])
        lines = workbooks.csv_text(sheet).splitlines()
        assert [parse_amount(line, "EUR") for line in lines] == minor

    def test_a_time_without_an_offset_is_refused_not_guessed(self) -> None:
        rows: list[list[Any]] = [HEADER, [1, 18, datetime(2026, 3, 1, 14, 0), "credit", 1, 1]]  # noqa: DTZ001
        parsed = imports.parse(imports.decode(workbook(rows)), imports.Options())
        [error] = parsed.errors
        assert error.field == "date"

    def test_a_cell_with_a_line_break_stays_one_cell(self) -> None:
        assert workbooks.csv_text(workbook([["a\nb", "c"]])) == "a b,c\n"

    @pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + b"x" * 100])
    def test_no_workbook(self, content: bytes) -> None:
        with pytest.raises(InvalidInputError, match="no XLSX workbook"):
            imports.decode(content)

    def test_another_zip(self) -> None:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as packed:
            packed.writestr("readme.txt", "hello")
        with pytest.raises(InvalidInputError, match="no XLSX workbook"):
            imports.decode(made.getvalue())

    def test_a_bomb(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workbooks, "UNPACKED_MAX", 1_000)
        with pytest.raises(InvalidInputError, match="too large"):
            imports.decode(workbook([["x" * 5_000]]))
