"""Pure: bank statements as CSV files, in which every bank has columns of its own.

What a column is follows from its title (English and German). How numbers and dates are written follows
from all of them together; what can be read in two ways with two results is refused, never guessed. A
running balance must chain from row to row, and stated opening and closing balances must add up.
A file without titles is read if each of its rows has a date and one amount.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import msgspec

from ledger import workbooks
from ledger.bank_files import (
    MEMO_MAX,
    REFERENCE_MAX,
    BankStatement,
    Entry,
    account_of,
    check_sum,
    clean,
    currency_of,
    text_of,
)
from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import AMOUNT_MAX
from ledger.errors import InvalidInputError

TITLES: dict[str, tuple[str, ...]] = {
    "booked": ("buchungstag", "buchungsdatum", "booking date", "posting date", "post date",
               "transaction date", "transaction_date", "date", "datum"),
    "value": ("valutadatum", "wertstellung", "valuta", "value date", "value_date"),
    "amount": ("amount", "betrag", "netto", "net", "umsatz"),
    "debit": ("debit", "soll", "withdrawal", "withdrawals", "paid out", "money out"),
    "credit": ("credit", "haben", "deposit", "deposits", "paid in", "money in"),
    "balance": ("balance", "running balance", "current balance", "saldo nach buchung", "saldo",
                "guthaben"),
    "opening": ("initial_balance", "opening balance"),
    "closing": ("final_balance", "closing balance"),
    "currency": ("currency", "ccy", "währung", "waehrung"),
    "status": ("status", "info"),
    "account": ("iban auftragskonto", "auftragskonto", "iban kontoinhaber", "account number",
                "account_number", "account"),
    "reference": ("ref", "ref #", "reference", "kundenreferenz (end-to-end)", "kundenreferenz",
                  "transaktionscode", "transaction id", "document_number"),
}  # fmt: skip
"""What a column is, to the titles that it has in one file or another, the best first."""
WORDS = (
    "description", "label", "details", "detail", "buchungstext", "name", "partner name",
    "name zahlungsbeteiligter", "beguenstigter/zahlungspflichtiger", "zahlungspflichtige*r",
    "zahlungsempfänger*in", "verwendungszweck", "memo", "betreff", "item1", "item2",
)  # fmt: skip
"""Titles of columns that make the memo."""
PENDING = ("vorgemerkt", "pending", "ausstehend")
OPENING_WORDS = ("balance at start", "opening balance", "anfangssaldo")
CLOSING_WORDS = ("balance at end", "closing balance", "kontostand", "endsaldo")
SYMBOLS = {
    "€": ("EUR",),
    "£": ("GBP",),
    "$": ("USD", "AUD", "CAD", "HKD", "MXN", "NZD", "SGD", "TWD"),
}
"""A sign to the currencies that have it; the first unless another is expected."""
DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%m/%d/%Y", "%d/%m/%y",
         "%m/%d/%y", "%d-%m-%Y", "%m-%d-%Y")  # fmt: skip
HEADER_WITHIN = 30
"""The titles stand among so many first lines."""
ROWS_MAX = 100_000
_IBAN = re.compile(r"\b([A-Z]{2}\d{2}[A-Z0-9]{10,30})\b")
_ACCOUNT = re.compile(r"account number\s*:\s*(\w+)", re.IGNORECASE)
_UNIT = re.compile(r":\s*([A-Z]{3})\b")
_PLAIN_AMOUNT = re.compile(r"-?\d+[.,]\d{2}", re.ASCII)


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line's cells by what they are; `memo` is made up already."""

    line: int
    cells: dict[str, str]
    memo: str


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a file; `stated` are cells that stand outside of the table."""

    rows: list[_Row]
    stated: dict[str, str]


def is_bank_csv(content: bytes) -> bool:
    """Whether it can be told which of its columns are dates and amounts."""
    return _table(content) is not None


def read(content: bytes, *, account: str = "", currency: str = "") -> list[BankStatement]:
    """The statements of a file, one per account and currency, entries in the order of time.

    `account` and `currency` are those of a file that does not say. The first sheet of a workbook
    is read like a file.

    Raises:
        InvalidInputError: it cannot be read, can be read in two ways, or contradicts itself.
    """
    table = _table(content)
    if table is None:
        raise InvalidInputError(
            "is no MT940, CAMT.053 or OFX file, and no line names columns: a date (such as Date, "
            "Buchungstag) and an amount (such as Amount, Betrag, or Debit and Credit) are needed",
            field="file",
        )
    booked = [row for row in table.rows if not _is_pending(row)]
    if not booked:
        raise InvalidInputError("has no booked entry", field="file")
    form = _date_form(booked)
    groups: dict[tuple[str, str], list[_Row]] = {}
    possible = SYMBOLS.get(table.stated.get("symbol", ""), (currency,))
    usual = currency if currency in possible else possible[0]
    for row in booked:
        whose = row.cells.get("account") or table.stated.get("account") or account
        unit = row.cells.get("currency") or table.stated.get("currency") or usual
        if not whose:
            raise InvalidInputError(
                "says nowhere which account it is of: reconcile it on that account's page instead",
                field="file",
            )
        key = account_of(whose, f"line {row.line}"), currency_of(unit, f"line {row.line}")
        groups.setdefault(key, []).append(row)
    sign = _decimal_sign(booked, table, max(EXPONENTS[unit] for _, unit in groups))
    if len(groups) > 1 and {"opening", "closing"} & table.stated.keys():
        raise InvalidInputError("states one balance for several accounts", field="file")
    return [
        _statement(number, key, rows, table, sign, form)
        for number, (key, rows) in enumerate(groups.items(), 1)
    ]


def _bad(line: int, problem: str) -> InvalidInputError:
    return InvalidInputError(f"line {line}: {problem}", field="file")


# -- the table -----------------------------------------------------------------------------------


def _table(content: bytes) -> _Table | None:
    is_workbook = content.startswith(workbooks.MAGIC)
    text = workbooks.csv_text(content) if is_workbook else text_of(content)
    lines = _lines(text, _delimiter(text))
    return _titled(lines) or _untitled(lines)


def _delimiter(text: str) -> str:
    """What the titles are separated by; amounts hold commas too."""
    head = "\n".join(text.splitlines()[:HEADER_WITHIN])
    for delimiter in ";\t,":
        if any(_is_header(cells) for _, cells in _lines(head, delimiter)):
            return delimiter
    return max(";\t,", key=head.count)


def _lines(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Number and cells of every line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)
    found = []
    try:
        for cells in reader:
            trimmed = [cell.replace("\xa0", " ").strip() for cell in cells]
            if any(trimmed):
                found.append((reader.line_num, trimmed))
            if len(found) > ROWS_MAX:
                raise InvalidInputError(f"has more than {ROWS_MAX} lines", field="file")
    except csv.Error as error:
        raise _bad(reader.line_num, str(error)) from error
    return found


def _title(cell: str) -> str:
    """A column's title without its unit: "Betrag (€)" is "betrag"."""
    return re.sub(r"\s*\([^a-z]*\)$", "", " ".join(cell.lower().split()))


def _columns(cells: Sequence[str]) -> dict[str, int]:
    titles = [_title(cell) for cell in cells]
    return {
        name: titles.index(found)
        for name, known in TITLES.items()
        if (found := next((title for title in known if title in titles), None))
    }


def _is_header(cells: Sequence[str]) -> bool:
    columns = _columns(cells)
    return "booked" in columns and ("amount" in columns or {"debit", "credit"} <= columns.keys())


def _titled(lines: Sequence[tuple[int, list[str]]]) -> _Table | None:
    found = (at for at, (_, cells) in enumerate(lines[:HEADER_WITHIN]) if _is_header(cells))
    at = next(found, None)
    if at is None:
        return None
    header = lines[at][1]
    columns = _columns(header)
    words = [number for number, cell in enumerate(header) if _title(cell) in WORDS]
    stated = _stated([cells for _, cells in lines[:at]])
    rows = []
    for line, cells in lines[at + 1 :]:
        about = _stated([cells])
        if {"opening", "closing"} & about.keys():
            stated |= about
            continue
        named = {
            name: cells[number]
            for name, number in columns.items()
            if number < len(cells) and cells[number]
        }
        if "booked" not in named or not {"amount", "debit", "credit"} & named.keys():
            raise _bad(line, "lacks its date or its amount")
        memo = " ".join(dict.fromkeys(cells[number] for number in words if number < len(cells)))
        rows.append(_Row(line=line, cells=named, memo=clean(memo, MEMO_MAX)))
    shown = header[columns.get("amount", 0)] + "".join(
        row.cells.get(name, "") for row in rows[:1] for name in MONEY
    )
    if symbol := next((sign for sign in SYMBOLS if sign in shown), ""):
        stated.setdefault("symbol", symbol)
    return _Table(rows=rows, stated=stated)


def _stated(lines: Sequence[Sequence[str]]) -> dict[str, str]:
    """What lines outside of the table say about the account."""
    found: dict[str, str] = {}
    for cells in lines:
        start = cells[0].lower()
        for name, words in (("opening", OPENING_WORDS), ("closing", CLOSING_WORDS)):
            if start.startswith(words):
                found[name] = next(cell for cell in reversed(cells) if cell)
        joined = " ".join(cells)
        if account := _IBAN.search(joined) or _ACCOUNT.search(joined):
            found.setdefault("account", account[1])
        if (unit := _UNIT.search(joined)) and unit[1] in EXPONENTS:
            found.setdefault("currency", unit[1])
    return found


def _untitled(lines: Sequence[tuple[int, list[str]]]) -> _Table | None:
    """Rows of a date, one amount in one of the columns for it, and words."""
    if not lines or len({len(cells) for _, cells in lines}) != 1:
        return None
    columns = list(zip(*(cells for _, cells in lines), strict=True))
    amounts = [
        number
        for number, column in enumerate(columns)
        if any(column) and all(_PLAIN_AMOUNT.fullmatch(cell) for cell in column if cell)
    ]
    rows = []
    for line, cells in lines:
        filled = [cells[number] for number in amounts if cells[number]]
        if len(filled) != 1 or not re.match(r"\d", cells[0]):
            return None
        named = {"booked": cells[0], "amount": filled[0]}
        if iban := next(
            (cell.strip("'") for cell in cells if _IBAN.fullmatch(cell.strip("'"))), ""
        ):
            named["account"] = iban
        memo = " ".join(
            cell for number, cell in enumerate(cells) if number and number not in amounts and
            cell.strip("'") != iban
        )  # fmt: skip
        rows.append(_Row(line=line, cells=named, memo=clean(memo, MEMO_MAX)))
    return _Table(rows=rows, stated={})


def _is_pending(row: _Row) -> bool:
    """Announced, not booked. What has a balance after it was booked."""
    status = row.cells.get("status", "").lower()
    return "balance" not in row.cells and any(word in status for word in PENDING)


# -- how it is written ---------------------------------------------------------------------------

MONEY = ("amount", "debit", "credit", "balance", "opening", "closing")


def _decimal_sign(rows: Sequence[_Row], table: _Table, exponent: int) -> str:
    """The sign that every amount of the file can be read with; `exponent` is its longest."""
    cells = [(row.line, row.cells[name]) for row in rows for name in MONEY if name in row.cells]
    cells += [(0, table.stated[name]) for name in MONEY if name in table.stated]
    wrong = {
        sign: [line for line, cell in cells if not _fits(cell, sign, exponent)]
        for sign in (".", ",")
    }
    sign = min(wrong, key=lambda sign: len(wrong[sign]))
    if wrong[sign]:
        line = wrong[sign][0]
        shown = next(cell for at, cell in cells if at == line and not _fits(cell, sign, exponent))
        raise _bad(line, f'"{clean(shown, 24)}" is not an amount')
    other = "," if sign == "." else "."
    if not wrong[other] and exponent:
        for line, cell in cells:
            if _number(cell, sign) != _number(cell, other):
                raise _bad(line, f'"{cell}" can be read in two ways, by {sign} and by {other}')
    return sign


def _fits(cell: str, sign: str, exponent: int) -> bool:
    """Whether it is an amount; where there are no decimals, a sign before some only groups."""
    found = _number(cell, sign)
    return found is not None and (exponent > 0 or not found[2].strip("0"))


def _number(cell: str, sign: str) -> tuple[bool, str, str] | None:
    """Negative, whole and decimal digits; None if it is no amount with this decimal sign."""
    text = re.sub(r"[€$£]|\b[A-Z]{3}\b", "", cell).replace(" ", "").replace("\u2212", "-")
    negative = text.startswith(("-", "(")) or text.endswith("-")
    text = text.strip("+-()")
    group = "[.']" if sign == "," else "[,']"
    match = re.fullmatch(
        rf"(\d{{1,3}}(?:{group}\d{{3}})+|\d+)(?:{re.escape(sign)}(\d{{1,3}}))?", text, re.ASCII
    )
    if match is None:
        return None
    whole = re.sub(r"\D", "", match[1]).lstrip("0") or "0"
    return negative, whole, match[2] or ""


def _minor(cell: str, sign: str, currency: str, line: int) -> int:
    """Signed minor units, exactly."""
    found = _number(cell, sign)
    exponent = EXPONENTS[currency]
    negative, whole, decimals = found or (False, "", "")
    if found is None or len(decimals.rstrip("0")) > exponent:
        raise _bad(line, f'"{clean(cell, 24)}" is not an amount in {currency}')
    minor = int(whole + decimals[:exponent].ljust(exponent, "0"))
    if minor > AMOUNT_MAX:
        raise _bad(line, f'"{clean(cell, 24)}" is too large')
    return -minor if negative else minor


def _date_form(rows: Sequence[_Row]) -> str:
    """The form that every date of the file can be read with."""
    cells = [
        (row.line, row.cells[name])
        for row in rows
        for name in ("booked", "value")
        if name in row.cells
    ]
    wrong = {form: [line for line, cell in cells if _day(cell, form) is None] for form in DATES}
    fitting = [form for form in DATES if not wrong[form]]
    if not fitting:
        best = min(DATES, key=lambda form: len(wrong[form]))
        line = wrong[best][0]
        shown = next(cell for at, cell in cells if at == line and _day(cell, best) is None)
        raise _bad(line, f'"{clean(shown, 24)}" is not a date')
    for form in fitting[1:]:
        for line, cell in cells:
            if _day(cell, form) != _day(cell, fitting[0]):
                raise _bad(
                    line, f'"{cell}" can have the day or the month first: write dates as YYYY-MM-DD'
                )
    return fitting[0]


def _day(cell: str, form: str) -> datetime | None:
    try:
        return _midnight(cell, form)
    except ValueError:
        return None


def _midnight(cell: str, form: str) -> datetime:
    return datetime.strptime(cell[:10], form).replace(tzinfo=UTC)


# -- statements ----------------------------------------------------------------------------------


def _statement(
    number: int, key: tuple[str, str], rows: Sequence[_Row], table: _Table, sign: str, form: str
) -> BankStatement:
    account, currency = key
    _check_columns(rows, sign)
    moved = [(row, _amount(row, sign, currency)) for row in rows]
    balances = [
        _minor(row.cells["balance"], sign, currency, row.line)
        for row in rows
        if "balance" in row.cells
    ]
    days = [_midnight(row.cells["booked"], form) for row in rows]
    if balances and len(balances) == len(rows):
        if _is_newest_first(moved, balances, by_date=days[0] > days[-1]):
            moved.reverse()
            balances.reverse()
        opening: int | None = balances[0] - moved[0][1]
        closing: int | None = balances[-1]
    else:
        if days[0] > days[-1]:
            moved.reverse()
        opening, closing = (
            _minor(cell, sign, currency, rows[0].line) if cell else None
            for cell in (
                rows[0].cells.get(name) or table.stated.get(name) for name in ("opening", "closing")
            )
        )
    statement = BankStatement(
        account=account,
        currency=currency,
        opening=opening,
        closing=closing,
        opened=min(days),
        closed=max(days),
        entries=list(_entries(moved, form)),
    )
    check_sum(statement, number)
    return statement


def _entries(moved: Sequence[tuple[_Row, int]], form: str) -> Iterator[Entry]:
    """Rows that move no money are notes of the bank."""
    for number, (row, amount) in enumerate([item for item in moved if item[1]], 1):
        booked = _midnight(row.cells["booked"], form)
        yield Entry(
            number=number,
            booked=booked,
            value=_day(row.cells.get("value", ""), form) or booked,
            amount=amount,
            reference=clean(row.cells.get("reference"), REFERENCE_MAX),
            memo=row.memo,
        )


def _amount(row: _Row, sign: str, currency: str) -> int:
    if "amount" in row.cells:
        return _minor(row.cells["amount"], sign, currency, row.line)
    credit, debit = (
        abs(_minor(row.cells.get(name, "0"), sign, currency, row.line))
        for name in ("credit", "debit")
    )
    return credit - debit


def _check_columns(rows: Sequence[_Row], sign: str) -> None:
    """A column of debits, or of credits, has one sign, or nobody knows which of them mean what."""
    for name in ("debit", "credit"):
        signs: dict[bool, int] = {}
        for row in rows:
            negative, whole, decimals = _number(row.cells.get(name, "0"), sign) or (False, "", "")
            if int(whole + decimals or "0"):
                signs.setdefault(negative, row.line)
        if len(signs) > 1:
            raise _bad(max(signs.values()), f"the column of {name}s has amounts of both signs")


def _is_newest_first(
    moved: Sequence[tuple[_Row, int]], balances: Sequence[int], *, by_date: bool
) -> bool:
    """Which way the balances chain; if both, the dates tell.

    Raises:
        InvalidInputError: neither way; the detail names the first line that does not follow.
    """
    steps = list(pairwise(zip(moved, balances, strict=True)))
    forward = [late[0][0] for early, late in steps if early[1] + late[0][1] != late[1]]
    backward = [early[0][0] for early, late in steps if late[1] + early[0][1] != early[1]]
    if not forward or not backward:
        return by_date if forward == backward else bool(forward)
    row = min(forward, backward, key=len)[0]
    raise _bad(
        row.line,
        f"the balance {row.cells['balance']} does not follow from its neighbour and the amount",
    )
