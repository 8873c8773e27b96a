"""Banks' CSV files: every public sample against its recorded figures, every layout, what is refused."""

import json
from datetime import date
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import bank_csvs, bank_files, history, imports, reconciliations
from ledger.api.serializers import account_id_of_reference
from ledger.domain.currencies import EXPONENTS
from ledger.errors import InvalidInputError
from ledger.imports import Options
from tests.conftest import Sender, user_with

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ORACLE = DATA / "statements" / "oracle.json"
SAMPLES: dict[str, Any] = (
    {
        Path(sample["file"]).name: sample
        for sample in json.loads(ORACLE.read_text())
        if sample["format"] == "csv"
    }
    if ORACLE.exists()
    else {}
)
REFUSED = {
    "oca-debit_credit_amount.csv": "both signs",
    "oca-meta_data_separated_credit_debit.csv": "day or the month first",
    "swedbank-lt.csv": "no line names columns",
    "golden-garbled-amount.csv": 'line 3: "12..34" is not an amount',
}
NOT_BOOKED = {
    "sparkasse-lzo-camt-v8.csv": (3, Decimal("-1253.78")),
    "commerzbank.csv": (2, Decimal(0)),
}
"""Rows that are announced, or move no money: how many, and what they would sum to."""


def read(text: str, **given: str) -> list[bank_files.BankStatement]:
    return bank_csvs.read(text.encode(), **({"account": "A1", "currency": "EUR"} | given))


def minor(text: str | Decimal, currency: str) -> int:
    return int(Decimal(text).scaleb(EXPONENTS[currency]))


@pytest.mark.skipif(not SAMPLES, reason="the public statements are not here")
@pytest.mark.parametrize("name", SAMPLES)
def test_public_samples_agree_with_their_oracle(name: str) -> None:
    content = (DATA / SAMPLES[name]["file"]).read_bytes()
    assert not bank_files.is_bank_file(content)
    if name in REFUSED:
        with pytest.raises(InvalidInputError, match=REFUSED[name]):
            bank_csvs.read(content, account="A1", currency="EUR")
        return
    [told] = SAMPLES[name]["statements"]
    found = bank_csvs.read(content, account="A1", currency="EUR")
    currency = told["currency"] or "EUR"
    left_out, amount = NOT_BOOKED.get(name, (0, Decimal(0)))
    entries = [entry for statement in found for entry in statement.entries]
    assert len(entries) == told["entries"] - left_out
    assert sum(entry.amount for entry in entries) == minor(Decimal(told["sum"]) - amount, currency)
    if "beangulp" not in name:  # they leave out which currency they are in
        assert {statement.currency for statement in found} == {currency}
    for what in ("opening", "closing"):
        if told[what] is not None:
            assert getattr(found[0], what) == minor(told[what], currency), what
    assert all(
        early.booked <= late.booked
        for statement in found
        for early, late in zip(statement.entries, statement.entries[1:], strict=False)
    )


@pytest.mark.skipif(not SAMPLES, reason="the public statements are not here")
def test_two_formats_of_one_statement_say_the_same() -> None:
    [table] = bank_csvs.read((DATA / "statements/csv/vr-teilhaberbank.csv").read_bytes())
    swift = bank_files.read((DATA / "statements/mt940/vr-teilhaberbank.mta").read_bytes())
    assert (table.opening, table.closing) == (swift[0].opening, swift[-1].closing)
    assert sorted((e.booked, e.amount) for e in table.entries) == sorted(
        (e.booked, e.amount) for statement in swift for e in statement.entries
    )


amounts = st.integers(-(10**9), 10**9).filter(bool)
days = st.dates(date(2000, 1, 1), date(2030, 12, 31))


def written(cents: int, decimal: str, *, grouped: bool) -> str:
    text = f"{abs(cents) // 100:,}" if grouped else str(abs(cents) // 100)
    text = text.replace(",", "." if decimal == "," else ",")
    return f"{'-' if cents < 0 else ''}{text}{decimal}{abs(cents) % 100:02d}"


@given(
    rows=st.lists(st.tuples(days, amounts), min_size=1, max_size=12),
    delimiter=st.sampled_from(",;\t"),
    decimal=st.sampled_from(",."),
    grouped=st.booleans(),
    form=st.sampled_from(("%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y")),
    newest_first=st.booleans(),
    columns=st.sampled_from(("amount", "two", "balance")),
    opening=st.integers(-(10**9), 10**9),
)
def test_whatever_the_layout_the_entries_are_the_same(
    rows: list[tuple[date, int]], delimiter: str, decimal: str, form: str, columns: str, opening: int,
    *, grouped: bool, newest_first: bool,
) -> None:  # fmt: skip
    """Or the file can be read in two ways, and is refused for that."""
    rows = sorted(rows, key=lambda row: row[0])
    balances = list(accumulate((amount for _, amount in rows), initial=opening))
    header = {
        "amount": ["Date", "Amount"], "two": ["Buchungstag", "Soll", "Haben"],
        "balance": ["Datum", "Betrag (€)", "Saldo"],
    }[columns]  # fmt: skip

    def cells(day: date, amount: int, balance: int) -> list[str]:
        shown = written(amount, decimal, grouped=grouped)
        if columns == "two":
            both = [shown.removeprefix("-") if amount < 0 else "", shown if amount > 0 else ""]
            return [day.strftime(form), *both]
        after = [written(balance, decimal, grouped=grouped)] if columns == "balance" else []
        return [day.strftime(form), shown, *after]

    lines = [cells(*row, balance) for row, balance in zip(rows, balances[1:], strict=True)]
    if newest_first:
        lines.reverse()
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in ([header, *lines]))
    try:
        [found] = read(text)
    except InvalidInputError as error:
        assert "day or the month first" in error.detail
        assert "/" in form
        return
    told = [(entry.booked.date(), entry.amount) for entry in found.entries]
    assert sorted(told) == sorted(rows)
    if columns == "balance":
        is_one_way = rows[0][0] != rows[-1][0] or len(rows) == 1
        if is_one_way:
            assert (found.opening, found.closing) == (opening, balances[-1])
        assert (found.closing or 0) - (found.opening or 0) == balances[-1] - opening


HEAD = "Date;Amount;Currency;Balance;Status"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no line names columns"),
        ("a;b\n1;2", "no line names columns"),
        ("Date;Amount\n2026-01-02;5.00\n2026-01-03;", "line 3: lacks its date or its amount"),
        ("Date;Amount\n2026-13-02;5.00", '"2026-13-02" is not a date'),
        ("Date;Amount\n2026-01-02;5.001", "can be read in two ways"),
        ("Date;Amount\n2026-01-02;NaN", '"NaN" is not an amount'),
        ("Date;Amount\n2026-01-02;1e5", '"1e5" is not an amount'),
        ("Date;Amount\n2026-01-02;٣.00", "is not an amount"),
        ("Date;Amount\n2026-01-02;99999999999999999.00", "too large"),
        ("Date;Amount\n2026-01-02;1.00\n2026-01-03;2,00", '"2,00" is not an amount'),
        ("Date;Amount\n01/02/26;1.00", "day or the month first"),
        ("Date;Amount\n2026-01-02;1,500", "can be read in two ways"),
        ("Date;Amount\n2026-01-02;1.00\n2026-01-02;5.001", "is not an amount in EUR"),
        (f"{HEAD}\n2026-01-02;1.00;EUR;5.00;\n2026-01-03;1.00;EUR;7.00;", "does not follow"),
        (f"{HEAD}\n2026-01-02;1.00;XXQ;5.00;", "line 2"),
        ("Date;Amount;Status\n2026-01-02;1.00;pending", "no booked entry"),
        ("Date;Debit;Credit\n2026-01-02;1.00;\n2026-01-03;-1.00;", "both signs"),
        ("Opening balance;5.00\nDate;Amount\n2026-01-02;1.00\nClosing balance;7.00", "off by 1.00"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read(text)
    assert problem in refused.value.detail


def test_currencies_are_told_apart() -> None:
    text = "Date;Amount;Currency\n2026-01-02;1.00;EUR\n2026-01-02;500;JPY"
    assert [(s.currency, s.entries[0].amount) for s in read(text)] == [("EUR", 100), ("JPY", 500)]
    assert [s.currency for s in read("Date;Amount\n2026-01-02;$1.00")] == ["USD"]
    [yen] = read("Date;Amount\n2026-01-02;1,500\n2026-01-02;-2,300", currency="JPY")
    assert [entry.amount for entry in yen.entries] == [1500, -2300]
    assert [s.currency for s in read("Date;Amount\n2026-01-02;$1.00", currency="CAD")] == ["CAD"]


@pytest.mark.usefixtures("live_db")
class TestInTheLedger:
    def test_an_import_brings_the_accounts_to_the_banks_balance_once(self) -> None:
        iban = f"DE00{uuid4().int % 10**18:018d}"
        text = (
            "IBAN Auftragskonto;Buchungstag;Verwendungszweck;Betrag;Waehrung;Saldo nach Buchung\n"
            f"{iban};03.12.2025;Müll;-1.050,5;EUR;950\n{iban};02.12.2025;Lohn;2.000;EUR;2000,5\n"
        )
        options = Options(source="csv")
        parsed = imports.read(text.encode("cp1252"), options)
        assert parsed.errors == []
        for repeated in (False, True):
            done = imports.run(parsed, options, actor="t")
            assert (done.errors, done.already_imported > 0) == ([], repeated)
        account, _ = history.current(account_id_of_reference(f"csv:{iban}"))
        assert account.balance == 95000

    def test_a_file_that_names_no_account_is_for_reconciling(self, send: Sender) -> None:
        content = b"Date,Description,Amount\n2026-01-02,Rent,-5.00\n2026-01-03,Salary,7.00\n"
        with pytest.raises(InvalidInputError, match="reconcile it on that account's page"):
            imports.read(content, Options())
        account = send.open(balance=100)
        kept = reconciliations.start(user_with("supervisor"), account, "bank.csv", content)
        found = reconciliations.compare(kept)
        assert [item.off for item in found.breaks] == [-500, 700]
        yen = send.open(currency="JPY")
        with pytest.raises(InvalidInputError, match="is in EUR"):
            reconciliations.start(
                user_with("supervisor"), yen, "bank.csv", content.replace(b"-5.00", "€-5".encode())
            )

    def test_a_table_of_the_ledgers_own_is_read_as_before(self) -> None:
        content = b"trans_id,account_id,date,type,amount\n1,7,2026-01-02,credit,5.00\n"
        assert [row.amount for row in imports.read(content, Options()).rows] == [500]
        with pytest.raises(InvalidInputError, match="lacks the columns"):
            imports.read(b"account_id,date,amount\n7,2026-01-02,5.00\n", Options())
