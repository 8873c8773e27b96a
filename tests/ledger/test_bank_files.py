"""Bank statements: every public sample against its recorded figures, and what must be refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import bank_files, history, imports, store
from ledger.api.serializers import account_id_of_reference
from ledger.domain.currencies import EXPONENTS
from ledger.domain.money import format_amount
from ledger.errors import InvalidInputError
from ledger.imports import Options

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ORACLE = DATA / "statements" / "oracle.json"
SAMPLES: list[dict[str, Any]] = json.loads(ORACLE.read_text()) if ORACLE.exists() else []
BANK_SAMPLES = [sample for sample in SAMPLES if sample["format"] != "csv"]
NOT_VALID = {"decimal_error", "date_missing"}  # the oracle's remarks: refused whole

MT940 = """:20:START
:25:12345678/1020304050
:28C:1/1
:60F:C260301EUR100,00
:61:2603020302C50,NTRFNONREF//B0001
:86:Salary
:61:2603030303D20,50NMSCNONREF//B0002
:86:Rent
:61:2603040304RC10,NTRFNONREF//B0003
:86:Salary taken back
:62F:C260304EUR119,50
-
"""
CAMT = """<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt><Stmt>
<CreDtTm>2026-03-05T00:00:00Z</CreDtTm>
<Acct><Id><IBAN>DE14740618130000033626</IBAN></Id><Ccy>EUR</Ccy></Acct>
<Bal><Tp><CdOrPrtry><Cd>OPBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">100</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-03-01</Dt></Dt></Bal>
<Bal><Tp><CdOrPrtry><Cd>CLBD</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">149.5</Amt><CdtDbtInd>CRDT</CdtDbtInd><Dt><Dt>2026-03-04</Dt></Dt></Bal>
<Ntry><Amt Ccy="EUR">49.50</Amt><CdtDbtInd>CRDT</CdtDbtInd><Sts><Cd>BOOK</Cd></Sts><BookgDt><Dt>2026-03-02</Dt></BookgDt><ValDt><Dt>2026-03-01</Dt></ValDt><AcctSvcrRef>R-1</AcctSvcrRef><AddtlNtryInf>Salary</AddtlNtryInf></Ntry>
<Ntry><Amt Ccy="EUR">7.00</Amt><CdtDbtInd>DBIT</CdtDbtInd><Sts><Cd>PDNG</Cd></Sts><BookgDt><Dt>2026-03-03</Dt></BookgDt></Ntry>
</Stmt></BkToCstmrStmt></Document>"""
OFX = """OFXHEADER:100
DATA:OFXSGML
CHARSET:1252

<OFX><BANKMSGSRSV1><STMTTRNRS><STMTRS><CURDEF>EUR<BANKACCTFROM><BANKID>1<ACCTID>77<ACCTTYPE>CHECKING</BANKACCTFROM>
<BANKTRANLIST><DTSTART>20260301<DTEND>20260304
<STMTTRN><TRNTYPE>CREDIT<DTPOSTED>20260302120000<TRNAMT>49,50<FITID>F1<NAME>M&amp;M<BANKACCTTO><ACCTID>99</BANKACCTTO></STMTTRN>
<STMTTRN><TRNTYPE>DEBIT<DTPOSTED>20260303<TRNAMT>-7.00<FITID>F2<MEMO>Rent</STMTTRN>
</BANKTRANLIST><LEDGERBAL><BALAMT>142.50<DTASOF>20260304</LEDGERBAL><AVAILBAL><BALAMT>9<DTASOF>20260304</AVAILBAL></STMTRS></STMTTRNRS></BANKMSGSRSV1></OFX>"""


def minor(text: str, currency: str) -> int:
    return int(Decimal(text.replace(",", ".")).scaleb(EXPONENTS[currency]))


@pytest.mark.skipif(not SAMPLES, reason="the public statements are not here")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: Path(sample["file"]).name)
def test_public_samples_agree_with_their_oracle(sample: dict[str, Any]) -> None:
    content = (DATA / sample["file"]).read_bytes()
    if sample["format"] == "csv":
        assert not bank_files.is_bank_file(content)
        return
    told = sample["statements"]
    unknown = {part for one in told for part in one["currency"].split("/")} - EXPONENTS.keys()
    contradicts = any(one["holds"] is False for one in told)
    if contradicts or unknown or any(name in sample["file"] for name in NOT_VALID):
        with pytest.raises(InvalidInputError) as refused:
            bank_files.read(content)
        assert "statement" in refused.value.detail
        return
    read = bank_files.read(content)
    assert len(read) == len(told)
    for statement, one in zip(read, told, strict=True):
        assert statement.currency == one["currency"]
        assert len(statement.entries) == one["entries"]
        sum_of = sum(entry.amount for entry in statement.entries)
        assert sum_of == minor(one["sum"], statement.currency)
        if one["opening"] is not None:
            assert statement.opening == minor(one["opening"], statement.currency)
        if one["closing"] is not None and "bradesco" not in sample["file"]:
            assert statement.closing == minor(one["closing"], statement.currency)


class TestReading:
    def test_mt940(self) -> None:
        [statement] = bank_files.read(MT940.encode())
        assert (statement.account, statement.currency) == ("12345678/1020304050", "EUR")
        assert (statement.opening, statement.closing) == (10000, 11950)
        assert [entry.amount for entry in statement.entries] == [5000, -2050, -1000]
        assert statement.entries[0].reference == "B0001"
        assert statement.entries[0].memo == "Salary"
        assert statement.closed.date().isoformat() == "2026-03-04"

    def test_camt_takes_booked_entries_alone_and_both_dates(self) -> None:
        [statement] = bank_files.read(CAMT.encode())
        [entry] = statement.entries
        assert (statement.opening, statement.closing) == (10000, 14950)
        assert (entry.amount, entry.reference, entry.memo) == (4950, "R-1", "Salary")
        assert (entry.booked.day, entry.value.day) == (2, 1)

    def test_ofx_opening_is_what_the_entries_leave(self) -> None:
        [statement] = bank_files.read(OFX.encode())
        assert statement.account == "77"
        assert (statement.opening, statement.closing) == (10000, 14250)
        assert [entry.memo for entry in statement.entries] == ["M&M", "Rent"]
        assert all(entry.is_unique for entry in statement.entries)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (MT940.replace("119,50", "119,51"), "off by 0.01"),
            (MT940.replace("50,NTRF", "5x0,NTRF"), "MT940"),
            (MT940.replace("EUR", "EUX"), '"EUX" is not a currency'),
            (MT940.replace(":62F:C260304EUR119,50\n", ""), "closing balance"),
            (CAMT.replace('<Amt Ccy="EUR">49.50', '<Amt Ccy="USD">49.50'), "is in USD"),
            (CAMT.replace("49.50", "49.505"), "has 3 decimals"),
            (CAMT.replace("49.50", "NaN"), "is not an amount"),
            (CAMT.replace("2026-03-02", "2026-02-30"), "is not a date"),
            (CAMT.replace("</Stmt>", ""), "no XML"),
            (
                CAMT.replace("<Document", '<!DOCTYPE x [<!ENTITY a "b">]><Document').replace(
                    "Salary", "&a;"
                ),
                "no XML that may be read",
            ),
            ("<a><b/></a>", "no statement"),
            (OFX.replace("F2", "F1"), 'FITID "F1" came before'),
            (OFX.replace("49,50", "$49"), "is not an amount"),
            (OFX.replace("<CURDEF>EUR", ""), "not a currency"),
            (OFX.replace("<ACCTID>77", ""), "account must be"),
            ("account_id,date\n", "no MT940"),
        ],
    )
    def test_is_refused_with_the_place_and_the_reason(self, content: str, says: str) -> None:
        with pytest.raises(InvalidInputError) as refused:
            bank_files.read(content.encode())
        assert says in refused.value.detail
        assert refused.value.field == "file"

    @given(
        content=st.binary(max_size=300), start=st.sampled_from([b":20:", b"<", b"OFXHEADER<OFX>"])
    )
    def test_any_bytes_are_read_or_refused(self, content: bytes, start: bytes) -> None:
        try:
            bank_files.read(start + content)
        except InvalidInputError as error:
            assert error.field == "file"

    @given(
        base=st.sampled_from([MT940, CAMT, OFX]),
        at=st.integers(0, 2000),
        junk=st.text(max_size=6),
        cut=st.integers(0, 40),
    )
    def test_damaged_files_are_read_or_refused(
        self, base: str, at: int, junk: str, cut: int
    ) -> None:
        at %= len(base)
        content = (base[:at] + junk + base[at + cut :]).encode("utf-8", "surrogatepass")
        try:
            statements = bank_files.read(content)
        except InvalidInputError:
            return
        for statement in statements:
            if statement.opening is not None and statement.closing is not None:
                sum_of = sum(entry.amount for entry in statement.entries)
                assert statement.opening + sum_of == statement.closing


def options() -> Options:
    return Options(source=f"s{uuid4().hex[:10]}")


def run(content: str | bytes, chosen: Options) -> imports.Result:
    raw = content.encode() if isinstance(content, str) else content
    return imports.run(imports.read(raw, chosen), chosen, actor="tester")


def balance(chosen: Options, account: str) -> int:
    found = account_id_of_reference(f"{chosen.source}:{account}")
    return history.current(found)[0].balance


class TestImport:
    @pytest.mark.parametrize(
        ("content", "account", "closing"),
        [(MT940, "12345678/1020304050", 11950), (CAMT, "DE14740618130000033626", 14950),
         (OFX, "77", 14250)],
    )  # fmt: skip
    def test_reaches_the_closing_balance_and_once(
        self, live_db: None, content: str, account: str, closing: int
    ) -> None:
        chosen = options()
        result = run(content, chosen)
        assert (result.errors_total, result.accounts_opened) == (0, 1)
        assert balance(chosen, account) == closing
        before = store.last_position()
        again = run(content, chosen)
        assert (again.accepted, again.already_imported) == (0, result.accepted)
        assert store.last_position() == before
        parsed = imports.read(content.encode(), chosen)
        found = imports.verify_balances(parsed, chosen)
        assert (found.rows_missing, found.contradictions) == (0, [])
        assert found.rows_equal == found.rows_checked == len(parsed.rows) - 1

    def test_a_later_statement_adds_its_entries_alone(self, live_db: None) -> None:
        chosen = options()
        run(MT940, chosen)
        later = (
            MT940.replace("C260301EUR100,00", "C260304EUR119,50")
            .replace("26030", "26040")
            .replace("B000", "C000")
            .replace("C260404EUR119,50", "C260404EUR139,00")
        ).replace(":60F:C260404EUR139,00", ":60F:C260404EUR119,50")
        result = run(later, chosen)
        assert (result.accepted, result.already_imported) == (3, 1)
        assert balance(chosen, "12345678/1020304050") == 13900
        found = imports.verify_balances(imports.read(later.encode(), chosen), chosen)
        assert found.contradictions == []

    def test_a_statement_that_does_not_continue_the_ledger_is_named(self, live_db: None) -> None:
        chosen = options()
        run(MT940, chosen)
        gap = (
            MT940.replace("C260301EUR100,00", "C260404EUR200,00")
            .replace("61:26030", "61:26040")
            .replace("B000", "C000")
            .replace("119,50", "219,50")
        )
        run(gap, chosen)
        [contradiction] = imports.verify_balances(
            imports.read(gap.encode(), chosen), chosen
        ).contradictions
        assert contradiction.residual == "80.50"

    @pytest.mark.skipif(not SAMPLES, reason="the public statements are not here")
    def test_public_samples_are_reproduced_to_the_cent(self, live_db: None) -> None:
        reproduced = 0
        for sample in BANK_SAMPLES:
            chosen = Options(source=f"s{uuid4().hex[:10]}", overdraft_limit=10**12)
            try:
                parsed = imports.read((DATA / sample["file"]).read_bytes(), chosen)
            except InvalidInputError:
                continue
            result = imports.run(parsed, chosen, actor="tester")
            assert result.errors == [], sample["file"]
            last = {
                statement.account: statement
                for statement in bank_files.read((DATA / sample["file"]).read_bytes())
            }
            for account, statement in last.items():
                if statement.closing is not None and statement.entries:
                    shown = format_amount(balance(chosen, account), statement.currency)
                    assert shown == format_amount(statement.closing, statement.currency), (
                        sample["file"],
                        account,
                    )
                    reproduced += 1
        assert reproduced >= 30
