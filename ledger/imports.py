"""Import transactions from files, with the same rules and the same bus as everything else.

Bank statements (MT940, CAMT.053, OFX) are read by `ledger.bank_files`; their accounts are known by
the number in the file. The opening balance of an account's first statement is imported as a
deposit from (or a withdrawal to) `opening`, once per source and account, so that later statements
only add their entries. Entries keep the order of the file; each is effective on its value date.
Banks' CSV files (`ledger.bank_csvs`) are statements too.

Tables are CSV files or the first sheet of an XLSX workbook.

Columns as in the public PKDD'99 bank data: trans_id, account_id, date, type, operation, amount,
balance, and optionally k_symbol, bank, account. The header names them, in any order; delimiter is
comma, semicolon or tab. Amounts have a decimal point and no thousands separator. Dates are YYMMDD,
YYYY-MM-DD or RFC 3339; a date counts from 00:00 UTC of that day.

A row is known by its trans_id; without one, by its content and how often that content came before.
So a file imported twice has one effect, two honest rows that look alike are two, and overlapping
files add only what is new. Nothing is written while any row is wrong, unless asked to skip those.

Rows of one account and day are put in the order in which their recorded balances chain, since such
files carry dates without times.
"""

import csv
import hashlib
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import msgspec

from ledger import bank_csvs, bank_files, history, store, workbooks
from ledger.api.serializers import account_id_of_reference
from ledger.domain import commands as c
from ledger.domain.decide import Facts, apply, decide
from ledger.domain.money import check_currency, format_amount, parse_amount, parse_signed
from ledger.domain.state import Account, evolve
from ledger.domain.times import parse_time
from ledger.errors import InvalidInputError, LedgerError
from ledger.handlers import Envelope, Outcome, envelope
from ledger.service import bus

log = logging.getLogger(__name__)

CHUNK = 500
"""Rows per call of the bus, and per progress step."""
ERRORS_LISTED_MAX = 200
LINE_MAX = 10_000
CHAIN_STEPS_MAX = 50_000
CHAIN_TOLERANCE = 10
"""Minor units by which a recorded balance may miss its predecessor plus amount and still chain."""

REQUIRED = ("account_id", "date", "type", "amount")
OPENING = "opening"
"""Counterpart of a balance that an account brings along from elsewhere."""
OPTIONAL = ("trans_id", "operation", "balance", "k_symbol", "bank", "account")
SIGNS: Mapping[str, int] = {
    **dict.fromkeys(("credit", "deposit", "PRIJEM"), 1),
    **dict.fromkeys(("withdrawal", "withdrawal in cash", "debit", "VYDAJ", "VYBER"), -1),
}
COUNTERPARTS: Mapping[str, str] = {
    **dict.fromkeys(("credit in cash", "withdrawal in cash", "VKLAD", "VYBER"), "cash"),
    **dict.fromkeys(("credit card withdrawal", "VYBER KARTOU"), "card"),
    **dict.fromkeys(("collection from another bank", "PREVOD Z UCTU"), "bank"),
    **dict.fromkeys(("remittance to another bank", "PREVOD NA UCET"), "bank"),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a file. `source` names where it comes from and scopes rows and accounts."""

    source: str = "bank"
    currency: str = "EUR"
    overdraft_limit: int = 0
    skip_bad_rows: bool = False


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction of a file. `amount` is signed; `balance` is the one recorded after it."""

    line: int
    key: str
    reference: str
    account_id: str
    currency: str
    effective_at: datetime
    amount: int
    counterpart: str
    memo: str
    balance: int | None


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a line, and in which field."""

    line: int
    field: str
    problem: str


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """A file as read: good rows in the order to be imported, and what was wrong."""

    rows: list[Row]
    errors: list[RowError]
    rows_total: int


class Result(msgspec.Struct, kw_only=True):
    """What an import did, or would do."""

    rows_total: int = 0
    accepted: int = 0
    already_imported: int = 0
    accounts_opened: int = 0
    errors: list[RowError] = []
    errors_total: int = 0

    def add_error(self, error: RowError) -> None:
        """Count it, and list it while the list is short."""
        self.errors_total += 1
        if len(self.errors) < ERRORS_LISTED_MAX:
            self.errors = [*self.errors, error]


# -- reading -------------------------------------------------------------------------------------


def read(content: bytes, options: Options) -> Parsed:
    """Read a file of any of the formats.

    Raises:
        InvalidInputError: it cannot be read, or the options are wrong.
    """
    if bank_files.is_bank_file(content):
        return _of_statements(bank_files.read(content), options)
    if not _is_own(content) and bank_csvs.is_bank_csv(content):
        return _of_statements(bank_csvs.read(content, currency=options.currency), options)
    return parse(decode(content), options)


def _is_own(content: bytes) -> bool:
    """Whether the first line has a column that tables for imports have, and banks' files have not."""
    try:
        first = decode(content).partition("\n")[0].lower()
    except InvalidInputError:
        return False
    return not {"trans_id", "account_id"}.isdisjoint(re.split(r'[,;\t"\s]+', first))


def _of_statements(statements: Sequence[bank_files.BankStatement], options: Options) -> Parsed:
    """Rows of bank statements, in their order; a row's line is its number in the file."""
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    opened: set[str] = set()
    for statement in statements:
        reference = f"{options.source}:{statement.account}"
        common = {
            "reference": reference,
            "account_id": account_id_of_reference(reference),
            "currency": statement.currency,
        }
        if reference not in opened and statement.opening:
            row = Row(
                **common,
                line=len(rows) + 1,
                key=f"opening:{statement.account}",
                effective_at=statement.opened,
                amount=statement.opening,
                counterpart=OPENING,
                memo="opening balance",
                balance=None,
            )
            rows.append(row)
        opened.add(reference)
        balance = statement.opening
        for entry in statement.entries:
            balance = None if balance is None else balance + entry.amount
            row = Row(
                **common,
                line=len(rows) + 1,
                key=_entry_key(statement, entry, seen),
                effective_at=entry.value,
                amount=entry.amount,
                counterpart="bank",
                memo=" ".join(filter(None, (entry.reference, entry.memo)))[: bank_files.MEMO_MAX],
                balance=balance,
            )
            rows.append(row)
    return Parsed(rows=rows, errors=[], rows_total=len(rows))


def _entry_key(
    statement: bank_files.BankStatement, entry: bank_files.Entry, seen: Counter[str]
) -> str:
    if entry.is_unique:
        return f"id:{statement.account}/{entry.reference}"
    cell = {
        "account": statement.account,
        "amount": str(entry.amount),
        "booked": entry.booked.date().isoformat(),
        "memo": entry.memo,
        "reference": entry.reference,
        "value": entry.value.date().isoformat(),
    }
    return _content_key(cell, seen)


def decode(content: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte-order mark; of a workbook its first sheet.

    Raises:
        InvalidInputError: another encoding, NUL characters, or a workbook that cannot be read.
    """
    if content.startswith(workbooks.MAGIC):
        return workbooks.csv_text(content)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidInputError("the file is UTF-16: save it as UTF-8", field="file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidInputError(
            f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}): save the file as UTF-8",
            field="file",
        ) from error
    if "\x00" in text:
        raise InvalidInputError("the file holds NUL characters", field="file")
    return text


def parse(text: str, options: Options) -> Parsed:
    """Read a whole file.

    Raises:
        InvalidInputError: the header does not name the columns, or the options are wrong.
    """
    check_currency(options.currency)
    lines = text.splitlines()
    if not lines:
        raise InvalidInputError("the file is empty", field="file")
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, strict=True)
    names = _header(next(reader))
    rows: list[Row] = []
    errors: list[RowError] = []
    seen: Counter[str] = Counter()
    lines_of: dict[str, int] = {}
    total = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            errors.append(RowError(line=reader.line_num, field="line", problem=str(error)))
            total += 1
            continue
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        total += 1
        try:
            row = _row(reader.line_num, names, cells, options, seen)
            first = lines_of.setdefault(row.key, row.line)
            if first != row.line:
                raise InvalidInputError(f"the same as in line {first}", field="trans_id")
        except InvalidInputError as error:
            errors.append(
                RowError(line=reader.line_num, field=error.field or "line", problem=error.detail)
            )
        else:
            rows.append(row)
    return Parsed(rows=_in_order(rows), errors=errors, rows_total=total)


def _header(cells: Sequence[str]) -> list[str]:
    names = [cell.strip().strip('"').lower() for cell in cells]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InvalidInputError(
            f"line 1 lacks the columns {', '.join(missing)}; it has {', '.join(names)[:200]}",
            field="file",
        )
    unknown = [name for name in names if name not in (*REQUIRED, *OPTIONAL)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if unknown or twice:
        raise InvalidInputError(
            f"line 1 has columns that are not known, or come twice: {', '.join(unknown + twice)}; "
            f"allowed are {', '.join((*REQUIRED, *OPTIONAL))}",
            field="file",
        )
    return names


def _row(
    line: int, names: Sequence[str], cells: Sequence[str], options: Options, seen: Counter[str]
) -> Row:
    if len(cells) != len(names):
        raise InvalidInputError(f"has {len(cells)} cells, not {len(names)}", field="line")
    if sum(map(len, cells)) > LINE_MAX:
        raise InvalidInputError(f"is longer than {LINE_MAX} characters", field="line")
    cell = {name: value.strip() for name, value in zip(names, cells, strict=True)}
    sign = SIGNS.get(cell["type"])
    if sign is None:
        raise InvalidInputError(
            f'"{cell["type"][:30]}" is not known; allowed are {", ".join(SIGNS)}', field="type"
        )
    account = _identifier(cell["account_id"], field="account_id")
    reference = f"{options.source}:{account}"
    balance = cell.get("balance")
    operation, symbol = cell.get("operation", ""), cell.get("k_symbol", "")
    return Row(
        line=line,
        key=_key(cell, seen),
        reference=reference,
        account_id=account_id_of_reference(reference),
        currency=options.currency,
        effective_at=_date(cell["date"]),
        amount=sign * parse_amount(cell["amount"], options.currency, field="amount"),
        counterpart=_counterpart(operation, symbol, cell),
        memo=" ".join(filter(None, (operation, symbol)))[:200],
        balance=parse_signed(balance, options.currency, field="balance") if balance else None,
    )


def _identifier(text: str, *, field: str) -> str:
    """An identifier as it stands: never read as a number, and refused when a spreadsheet did."""
    if not text or len(text) > 40 or not text.isprintable():
        raise InvalidInputError("must be 1 to 40 printable characters", field=field)
    if "E+" in text.upper():
        raise InvalidInputError(
            f'"{text}" was damaged by a spreadsheet: export the column as text', field=field
        )
    return text


def _key(cell: Mapping[str, str], seen: Counter[str]) -> str:
    if cell.get("trans_id"):
        return f"id:{_identifier(cell['trans_id'], field='trans_id')}"
    return _content_key(cell, seen)


def _content_key(cell: Mapping[str, str], seen: Counter[str]) -> str:
    """A row without a name of its own, by its content and how often that came before."""
    content = "\x1f".join(f"{name}={cell[name]}" for name in sorted(cell))
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    seen[digest] += 1
    return f"row:{digest}:{seen[digest]}"


def _date(text: str) -> datetime:
    if "T" in text:
        return parse_time(text, field="date")
    formats = {6: "%y%m%d", 10: "%Y-%m-%d"}
    try:
        return datetime.strptime(text, formats[len(text)]).replace(tzinfo=UTC)
    except (KeyError, ValueError) as error:
        raise InvalidInputError(
            f'"{text[:40]}" is not a date: use YYMMDD, YYYY-MM-DD or RFC 3339', field="date"
        ) from error


def _counterpart(operation: str, symbol: str, cell: Mapping[str, str]) -> str:
    kind = COUNTERPARTS.get(operation)
    if kind is None:
        return "interest" if symbol in ("UROK", "interest credited") or not operation else "other"
    bank, account = cell.get("bank", ""), cell.get("account", "")
    if kind == "bank" and bank.isalnum() and account.isalnum() and bank.isascii():
        return f"bank:{bank}/{account}"
    return kind


# -- order within a day --------------------------------------------------------------------------


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """By time; within an account and moment in the order in which recorded balances chain."""
    by_account = sorted(rows, key=lambda row: (row.account_id, row.effective_at))
    ordered: list[Row] = []
    for _, group in groupby(by_account, key=lambda row: row.account_id):
        balance: int | None = 0
        for _, day in groupby(group, key=lambda row: row.effective_at):
            chained = _chain(list(day), balance)
            ordered += chained
            balance = chained[-1].balance
    ordered.sort(key=lambda row: row.effective_at)  # stable: each account keeps its order
    return ordered


def _chain(rows: list[Row], balance: int | None) -> list[Row]:
    """The order with the fewest breaks in the chain of balances; file order if there is none."""
    if len(rows) == 1 or balance is None or any(row.balance is None for row in rows):
        return rows
    for breaks in range(len(rows) + 1):
        steps = [CHAIN_STEPS_MAX]
        found = _search(rows, balance, breaks, steps)
        if found is not None:
            return found
        if steps[0] <= 0:
            break
    return rows


def _search(rows: list[Row], balance: int, breaks: int, steps: list[int]) -> list[Row] | None:
    if not rows:
        return []
    steps[0] -= 1
    if steps[0] <= 0:
        return None
    for residual_allowed in (False, True):
        for index, row in enumerate(rows):
            residual = abs((row.balance or 0) - balance - row.amount)
            if (residual != 0) is not residual_allowed or residual > CHAIN_TOLERANCE:
                continue
            if residual and not breaks:
                continue
            rest = rows[:index] + rows[index + 1 :]
            found = _search(rest, row.balance or 0, breaks - bool(residual), steps)
            if found is not None:
                return [row, *found]
    return None


# -- commands ------------------------------------------------------------------------------------


def _open_command(row: Row, options: Options) -> c.OpenAccount:
    return c.OpenAccount(
        account_id=row.account_id,
        holder=f"Account {row.reference.partition(':')[2]}",
        currency=row.currency,
        reference=row.reference,
        overdraft_limit=options.overdraft_limit,
        effective_at=row.effective_at,
    )


def _money_command(row: Row, options: Options) -> c.Command:
    kind = c.Deposit if row.amount > 0 else c.Withdraw
    return kind(
        account_id=row.account_id,
        amount=abs(row.amount),
        currency=row.currency,
        counterpart=row.counterpart,
        memo=row.memo,
        effective_at=row.effective_at,
    )


def _sender(options: Options) -> str:
    return f"import:{options.source}"


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def preview(parsed: Parsed, options: Options) -> Result:
    """Decide every row in memory against the accounts as they are now; nothing is stored."""
    result = Result(rows_total=parsed.rows_total)
    for error in parsed.errors:
        result.add_error(error)
    accounts: dict[str, Account] = {}
    existing: set[str] = set()
    for chunk in _chunks(parsed.rows):
        loaded = store.load(
            accounts=sorted({row.account_id for row in chunk} - accounts.keys()),
            keys=[(_sender(options), row.key) for row in chunk],
        )
        accounts |= {head.account_id: history.trusted(head) for head in loaded.heads.values()}
        for row in chunk:
            if (_sender(options), row.key) in loaded.commands:
                result.already_imported += 1
            elif (problem := _try(row, options, accounts, loaded.now)) is not None:
                result.add_error(problem)
            else:
                result.accepted += 1
        existing |= loaded.heads.keys()
    result.accounts_opened = len(accounts.keys() - existing)
    return result


def _ids(account_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(account_ids), CHUNK):
        yield account_ids[start : start + CHUNK]


def _try(
    row: Row, options: Options, accounts: dict[str, Account], now: datetime
) -> RowError | None:
    """Decide one row and keep its effect in `accounts`; the problem if it would be refused."""
    steps = [_money_command(row, options)]
    if row.account_id not in accounts:
        accounts[row.account_id] = Account(account_id=row.account_id)
        steps.insert(0, _open_command(row, options))
    for command in steps:
        facts = Facts(command_id="preview", now=now, accounts=accounts)
        try:
            accounts |= apply(accounts, decide(command, facts))
        except LedgerError as error:
            return RowError(line=row.line, field=error.field or "line", problem=error.detail)
    return None


def run(
    parsed: Parsed,
    options: Options,
    *,
    actor: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Result:
    """Import a file. With errors nothing is written, unless the options say to skip bad rows.

    A row that only the live traffic makes impossible is reported like the others; the rest go on.
    """
    checked = preview(parsed, options)
    if checked.errors_total and not options.skip_bad_rows:
        checked.accepted = checked.accounts_opened = 0
        return checked
    bad = {error.line for error in checked.errors}
    result = Result(
        rows_total=parsed.rows_total, errors=checked.errors, errors_total=checked.errors_total
    )
    opened: set[str] = set()
    done = 0
    for chunk in _chunks(parsed.rows):
        loaded = store.load(
            accounts=sorted({row.account_id for row in chunk} - opened),
            keys=[(_sender(options), row.key) for row in chunk],
        )
        opened |= loaded.heads.keys()
        rows = [
            row
            for row in chunk
            if row.line not in bad and (_sender(options), row.key) not in loaded.commands
        ]
        result.already_imported += sum(
            (_sender(options), row.key) in loaded.commands for row in chunk
        )
        _send(rows, options, opened, actor, result)
        done += len(chunk)
        progress(done, len(parsed.rows))
    return result


def _send(
    rows: Sequence[Row], options: Options, opened: set[str], actor: str, result: Result
) -> None:
    units: list[list[Envelope]] = []
    rows_of: list[Row | None] = []
    for row in rows:
        if row.account_id not in opened:
            opened.add(row.account_id)
            units.append([_envelope(_open_command(row, options), row.reference, options, actor)])
            rows_of.append(None)
        units.append([_envelope(_money_command(row, options), row.key, options, actor)])
        rows_of.append(row)
    for sent, [answer] in zip(rows_of, bus.send(units), strict=True):
        error = answer.error if isinstance(answer, Outcome) else answer
        if sent is None:
            result.accounts_opened += error is None
        elif error is None:
            result.accepted += 1
        else:
            field = getattr(error, "field", None) or "line"
            result.add_error(RowError(line=sent.line, field=field, problem=str(error)))


def _envelope(command: c.Command, key: str, options: Options, actor: str) -> Envelope:
    return envelope(command, sender=_sender(options), key=key, actor=actor, channel="import")


# -- verification --------------------------------------------------------------------------------


class Contradiction(msgspec.Struct, frozen=True, kw_only=True):
    """A row whose recorded balance does not follow from the row before it."""

    line: int
    account: str
    recorded: str
    expected: str
    residual: str


class Verification(msgspec.Struct, kw_only=True):
    """Recorded against reproduced balances.

    `rows_equal` match to the cent. The rows of an account after a contradiction carry its
    difference along; those that follow from the row before are `rows_consistent`.
    """

    rows_checked: int = 0
    rows_equal: int = 0
    rows_consistent: int = 0
    rows_missing: int = 0
    contradictions: list[Contradiction] = []


def verify_balances(parsed: Parsed, options: Options) -> Verification:
    """Fold the imported accounts from the log and compare with every recorded balance."""
    found = Verification()
    found.contradictions = []
    by_account: dict[str, list[Row]] = {}
    for row in parsed.rows:
        if row.balance is not None:
            by_account.setdefault(row.account_id, []).append(row)
    for account_ids in _ids(sorted(by_account)):
        keys = [(_sender(options), row.key) for item in account_ids for row in by_account[item]]
        commands: dict[str, str] = {}
        for start in range(0, len(keys), CHUNK):
            loaded = store.load(accounts=[], keys=keys[start : start + CHUNK])
            commands |= {key: known.command_id for (_, key), known in loaded.commands.items()}
        balances = _balances_after(account_ids)
        for account_id in account_ids:
            _verify_account(by_account[account_id], commands, balances, found)
    return found


def _balances_after(account_ids: Sequence[str]) -> dict[str, int]:
    """Balance after each command of these accounts, folded from the log."""
    balances: dict[str, int] = {}
    account = Account(account_id="")
    for recorded in store.read_streams(account_ids):
        if recorded.account_id != account.account_id:
            account = Account(account_id=recorded.account_id)
        account = evolve(account, recorded.event)
        balances[recorded.metadata.command_id] = account.balance
    return balances


def _verify_account(
    rows: Sequence[Row],
    commands: Mapping[str, str],
    balances: Mapping[str, int],
    found: Verification,
) -> None:
    drift = 0
    for row in rows:
        ledger = balances.get(commands.get(row.key, ""))
        recorded = row.balance
        if ledger is None or recorded is None:
            found.rows_missing += 1
            continue
        found.rows_checked += 1
        found.rows_equal += ledger == recorded
        residual = recorded - ledger - drift
        found.rows_consistent += residual == 0
        if residual:
            found.contradictions.append(
                Contradiction(
                    line=row.line,
                    account=row.reference,
                    recorded=format_amount(recorded, row.currency),
                    expected=format_amount(recorded - residual, row.currency),
                    residual=format_amount(residual, row.currency),
                )
            )
        drift += residual


def as_json(value: Any) -> Any:
    """A result for storage and pages."""
    return msgspec.to_builtins(value)
