"""Pure: bank statements in the formats that banks send: SWIFT MT940, ISO 20022 CAMT.053 and OFX.

A statement is taken whole or refused whole: its opening balance and its booked entries must add up
to its closing balance (the rule of both SWIFT and ISO 20022), or nobody knows which of them is wrong.
OFX states only a closing balance; the opening one is what the entries leave of it.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import msgspec
import mt940
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ledger.domain.money import check_currency, format_amount, parse_amount, parse_amount_or_zero
from ledger.errors import InvalidInputError

MEMO_MAX = 500
REFERENCE_MAX = 100
ACCOUNT_MAX = 40


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One booked entry. `amount` is signed minor units, money in above zero; days are UTC midnights."""

    number: int
    booked: datetime
    value: datetime
    amount: int
    reference: str
    memo: str
    is_unique: bool = False
    """Whether the bank promises that no other entry of the account has this reference."""


class BankStatement(msgspec.Struct, frozen=True, kw_only=True):
    """What a bank says about one account; balances in minor units."""

    account: str
    currency: str
    opening: int | None
    closing: int | None
    opened: datetime
    closed: datetime
    """The days that the balances are of, or else those of the first and last entry."""
    entries: list[Entry]


def is_bank_file(content: bytes) -> bool:
    """Whether it looks like one of the formats, and not like a table."""
    return _reader(content) is not None


def read(content: bytes) -> list[BankStatement]:
    """The statements of a file, in its order.

    Raises:
        InvalidInputError: a statement cannot be read, or contradicts itself.
    """
    reader = _reader(content)
    if reader is None:
        raise InvalidInputError("is no MT940, CAMT.053 or OFX file", field="file")
    statements = list(reader(content))
    if not statements:
        raise InvalidInputError("holds no statement of an account", field="file")
    for number, statement in enumerate(statements, 1):
        check_sum(statement, number)
    return statements


def _reader(content: bytes) -> Any:
    start = content[:4096]
    if b"OFXHEADER" in start or b"<OFX>" in start:
        return _ofx
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return _camt
    return _mt940 if re.search(rb"^:20:", start, re.MULTILINE) else None


def check_sum(statement: BankStatement, number: int) -> None:
    """Opening balance and entries make the closing balance, where both are stated.

    Raises:
        InvalidInputError: they do not; the detail says by how much.
    """
    if statement.opening is None or statement.closing is None:
        return
    sum_of = sum(entry.amount for entry in statement.entries)
    off = statement.closing - statement.opening - sum_of
    if off:
        shown = [
            format_amount(minor, statement.currency)
            for minor in (statement.opening, sum_of, statement.closing, off)
        ]
        raise InvalidInputError(
            f"statement {number}, account {statement.account}: opening {shown[0]} and entries "
            f"{shown[1]} do not make closing {shown[2]}: off by {shown[3]}",
            field="file",
        )


# -- what all formats share ----------------------------------------------------------------------


def _bad(where: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{where}: {problem}", field="file")


def clean(text: str | None, longest: int) -> str:
    """The text on one line, printable, at most `longest` characters."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text or "")
    return " ".join(shown.split())[:longest]


def account_of(text: str | None, where: str) -> str:
    """The bank's number of an account."""
    account = "".join((text or "").split())
    if not account or not account.isprintable() or len(account) > ACCOUNT_MAX:
        raise _bad(where, f"the account must be 1 to {ACCOUNT_MAX} printable characters")
    return account


def currency_of(text: str | None, where: str) -> str:
    """A currency that the ledger knows."""
    try:
        return check_currency((text or "").strip())
    except InvalidInputError as error:
        raise _bad(where, error.detail) from error


def _amount(text: str | None, currency: str, where: str, *, zero: bool = False) -> int:
    """Minor units of an unsigned amount; banks write leading zeros, and leave out decimals."""
    try:
        value = Decimal((text or "").strip())
        if not value.is_finite():
            raise InvalidOperation
    except InvalidOperation as error:
        raise _bad(where, f'"{clean(text, 24)}" is not an amount') from error
    parse = parse_amount_or_zero if zero else parse_amount
    plain = format(value.normalize(), "f") if value else "0"
    try:
        return parse(plain, currency)
    except InvalidInputError as error:
        raise _bad(where, error.detail) from error


def _day(text: str | None, form: str, where: str) -> datetime:
    try:
        return datetime.strptime(text or "", form).replace(tzinfo=UTC)
    except ValueError as error:
        raise _bad(where, f'"{clean(text, 24)}" is not a date') from error


# -- MT940 ---------------------------------------------------------------------------------------


def text_of(content: bytes) -> str:
    """UTF-8, or else a character for a byte: figures and dates are ASCII in every encoding."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _mt940(content: bytes) -> Iterator[BankStatement]:
    text = text_of(content)
    try:
        found = mt940.parse_statements(text)
    except Exception as error:
        raise InvalidInputError(f"cannot be read as MT940: {error}"[:300], field="file") from error
    listed = sum(len(statement.transactions) for statement in found)
    if listed != len(re.findall(r"^:61:", text, re.MULTILINE)):
        raise InvalidInputError("has entries that cannot be read as MT940", field="file")
    for number, statement in enumerate(found, 1):
        yield _mt940_statement(statement.data, statement.transactions, f"statement {number}")


def _mt940_statement(
    data: Mapping[str, Any], transactions: Sequence[Any], where: str
) -> BankStatement:
    balances = {
        name: data.get(f"final_{name}_balance") or data.get(f"intermediate_{name}_balance")
        for name in ("opening", "closing")
    }
    opening = balances["opening"]
    if opening is None or balances["closing"] is None:
        raise _bad(where, "lacks its opening or closing balance (:60F:, :62F:)")
    currency = currency_of(opening.amount.currency, where)
    entries = []
    for number, transaction in enumerate(transactions, 1):
        at = f"{where}, entry {number}"
        item = transaction.data
        # C credit, D debit; RC takes a credit back, RD a debit (SWIFT, field 61, subfield 3).
        sign = {"C": 1, "RD": 1, "D": -1, "RC": -1}.get(item["status"])
        if sign is None:
            raise _bad(at, f'"{clean(item["status"], 5)}" is neither credit nor debit')
        reference = item.get("bank_reference") or item.get("customer_reference")
        entries.append(
            Entry(
                number=number,
                booked=_midnight(item.get("entry_date") or item["date"]),
                value=_midnight(item["date"]),
                amount=sign * _amount(str(abs(item["amount"].amount)), currency, at),
                reference=clean(reference, REFERENCE_MAX),
                memo=clean(item.get("transaction_details") or item.get("purpose"), MEMO_MAX),
            )
        )
    return BankStatement(
        account=account_of(data.get("account_identification"), where),
        currency=currency,
        opening=_mt940_balance(opening, currency, where),
        closing=_mt940_balance(balances["closing"], currency, where),
        opened=_midnight(opening.date),
        closed=_midnight(balances["closing"].date),
        entries=entries,
    )


def _mt940_balance(balance: Any, currency: str, where: str) -> int:
    minor = _amount(str(abs(balance.amount.amount)), currency, where, zero=True)
    return -minor if balance.status == "D" else minor


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


# -- CAMT.053 ------------------------------------------------------------------------------------


def _camt(content: bytes) -> Iterator[BankStatement]:
    try:
        root = fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise InvalidInputError(
            f"is no XML that may be read: {error}"[:300], field="file"
        ) from error
    for element in root.iter():  # versions differ in their namespace alone, for what is read here
        element.tag = str(element.tag).rpartition("}")[2]
    for number, statement in enumerate(root.iter("Stmt"), 1):
        yield _camt_statement(statement, f"statement {number}")


def _camt_statement(statement: Element, where: str) -> BankStatement:
    account = statement.find("Acct")
    if account is None:
        raise _bad(where, "names no account (Acct)")
    balances = {item.findtext("Tp/CdOrPrtry/Cd"): item for item in statement.iterfind("Bal")}
    opening = next((balances[code] for code in ("OPBD", "PRCD") if code in balances), None)
    closing = balances.get("CLBD")
    entries = list(statement.iterfind("Ntry"))
    amounts = [item.find("Amt") for item in (opening, *entries) if item is not None]
    stated = account.findtext("Ccy") or next(
        (item.get("Ccy") for item in amounts if item is not None), None
    )
    currency = currency_of(stated, where)
    read_entries = [
        _camt_entry(entry, number, currency, f"{where}, entry {number}")
        for number, entry in enumerate(entries, 1)
        if (entry.findtext("Sts/Cd") or entry.findtext("Sts") or "BOOK").strip() == "BOOK"
    ]
    days = [entry.booked for entry in read_entries] or [
        _iso_day(statement.findtext("CreDtTm"), where)
        if opening is None
        else _camt_day(opening, "Dt", where)
    ]
    return BankStatement(
        account=account_of(account.findtext("Id/IBAN") or account.findtext("Id/Othr/Id"), where),
        currency=currency,
        opening=None if opening is None else _camt_amount(opening, currency, where, zero=True),
        closing=None if closing is None else _camt_amount(closing, currency, where, zero=True),
        opened=min(days) if opening is None else _camt_day(opening, "Dt", where),
        closed=max(days) if closing is None else _camt_day(closing, "Dt", where),
        entries=read_entries,
    )


def _camt_entry(entry: Element, number: int, currency: str, where: str) -> Entry:
    booked = _camt_day(entry, "BookgDt", where)
    texts = (
        *(item.text or "" for item in entry.iterfind(".//RmtInf/Ustrd")),
        entry.findtext("AddtlNtryInf") or "",
    )
    references = ("AcctSvcrRef", "NtryRef", ".//Refs/EndToEndId")
    reference = next((text for path in references if (text := entry.findtext(path))), "")
    return Entry(
        number=number,
        booked=booked,
        value=_camt_day(entry, "ValDt", where) if entry.find("ValDt") is not None else booked,
        amount=_camt_amount(entry, currency, where),
        reference=clean(reference, REFERENCE_MAX),
        memo=clean(" ".join(texts), MEMO_MAX),
    )


def _camt_amount(element: Element, currency: str, where: str, *, zero: bool = False) -> int:
    amount, sign = element.find("Amt"), element.findtext("CdtDbtInd")
    if amount is None or sign not in ("CRDT", "DBIT"):
        raise _bad(where, "lacks its amount (Amt), or CRDT or DBIT (CdtDbtInd)")
    if amount.get("Ccy") != currency:
        raise _bad(where, f"is in {clean(amount.get('Ccy'), 5)}, and the account in {currency}")
    minor = _amount(amount.text, currency, where, zero=zero)
    return minor if sign == "CRDT" else -minor


def _camt_day(element: Element, name: str, where: str) -> datetime:
    return _iso_day(element.findtext(f"{name}/Dt") or element.findtext(f"{name}/DtTm"), where)


def _iso_day(text: str | None, where: str) -> datetime:
    return _day((text or "").strip()[:10], "%Y-%m-%d", where)


# -- OFX -----------------------------------------------------------------------------------------

_OFX_TAG = re.compile(r"<(/?)([A-Z0-9.]+)>([^<]*)")
_OFX_STATEMENTS = ("STMTRS", "CCSTMTRS")
_OFX_GROUPS = (*_OFX_STATEMENTS, "STMTTRN", "LEDGERBAL", "AVAILBAL", "BANKACCTFROM", "CCACCTFROM",
               "BANKACCTTO", "CCACCTTO")  # fmt: skip


def _ofx(content: bytes) -> Iterator[BankStatement]:
    """Version 1 leaves out the end tags of values, version 2 does not; both read as a run of tags."""
    groups: list[str] = []
    fields: dict[str, str] = {}
    transactions: list[dict[str, str]] = []
    number = 0
    for end, name, value in _OFX_TAG.findall(_ofx_text(content)):
        if name not in _OFX_GROUPS:
            if groups and not end:
                into = transactions[-1] if "STMTTRN" in groups else fields
                is_own = groups[-1] in ("STMTTRN", *_OFX_STATEMENTS)
                key = name if is_own else f"{groups[-1]}.{name}"
                into.setdefault(key, html.unescape(value).strip())
        elif end:
            while groups and groups.pop() != name:
                pass
            if name in _OFX_STATEMENTS:
                yield _ofx_statement(fields, transactions, f"statement {number}")
        else:
            groups.append(name)
            if name == "STMTTRN":
                transactions.append({})
            elif name in _OFX_STATEMENTS:
                fields, transactions, number = {}, [], number + 1


def _ofx_text(content: bytes) -> str:
    """In the encoding that the header names; a wrong one garbles words, never figures."""
    if re.search(rb"CHARSET:\s*1252", content[:1024]):
        return content.decode("cp1252", "replace")
    return text_of(content)


def _ofx_statement(
    fields: Mapping[str, str], transactions: Sequence[Mapping[str, str]], where: str
) -> BankStatement:
    currency = currency_of(fields.get("CURDEF"), where)
    entries, seen = [], set()
    for number, item in enumerate(transactions, 1):
        at = f"{where}, entry {number}"
        entry = _ofx_entry(item, number, currency, at)
        if entry.reference in seen:
            raise _bad(at, f'FITID "{entry.reference}" came before: it must be unique')
        seen.add(entry.reference)
        entries.append(entry)
    closing = None
    # A balance without a real day is a placeholder.
    if re.match(r"[12]\d{3}[01]\d[0-3]\d", fields.get("LEDGERBAL.DTASOF", "")):
        closing = _ofx_amount(fields.get("LEDGERBAL.BALAMT"), currency, where, zero=True)
    account = next(
        (fields[name] for name in ("BANKACCTFROM.ACCTID", "CCACCTFROM.ACCTID") if fields.get(name)),
        None,
    )
    stated = (fields.get(name, "")[:8] for name in ("DTSTART", "LEDGERBAL.DTASOF"))
    days = [entry.booked for entry in entries] + [
        _day(text, "%Y%m%d", where) for text in stated if text.strip("0")
    ]
    if not days:
        raise _bad(where, "has no date")
    return BankStatement(
        account=account_of(account, where),
        currency=currency,
        opening=None if closing is None else closing - sum(entry.amount for entry in entries),
        closing=closing,
        opened=min(days),
        closed=max(days),
        entries=entries,
    )


def _ofx_entry(item: Mapping[str, str], number: int, currency: str, where: str) -> Entry:
    if not item.get("FITID"):
        raise _bad(where, "has no FITID")
    booked = _day(item.get("DTPOSTED", "")[:8], "%Y%m%d", where)
    value = item.get("DTAVAIL", "")[:8]
    return Entry(
        number=number,
        booked=booked,
        value=_day(value, "%Y%m%d", where) if value else booked,
        amount=_ofx_amount(item.get("TRNAMT"), currency, where),
        reference=clean(item["FITID"], REFERENCE_MAX),
        memo=clean(" ".join(_distinct((item.get("NAME", ""), item.get("MEMO", "")))), MEMO_MAX),
        is_unique=True,
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))


def _ofx_amount(text: str | None, currency: str, where: str, *, zero: bool = False) -> int:
    """Signed; the decimal separator is a point or a comma (OFX 3.2.9.2)."""
    match = re.fullmatch(r"([+-]?)(\d+)(?:[.,](\d*))?", (text or "").strip(), re.ASCII)
    if match is None:
        raise _bad(where, f'"{clean(text, 24)}" is not an amount')
    sign, whole, decimals = match.groups()
    minor = _amount(f"{whole}.{decimals or '0'}", currency, where, zero=zero)
    return -minor if sign == "-" else minor
