"""Statements: what happened on an account between two versions, for people, with its sums.

A pure function of the log: the same account and versions give the same bytes for ever.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

import msgspec
import openpyxl
from django.template.loader import render_to_string
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from ledger import csvs, history, privacy, store
from ledger.activity import ActivityLine, activity_lines
from ledger.codec import RecordedEvent
from ledger.domain.money import format_amount
from ledger.domain.state import Account
from ledger.errors import InvalidInputError, NotAvailableError, NotFoundError

LINES_MAX = 20_000
PDF_LINES_MAX = 2_000
"""A page of a PDF takes a tenth of a second to lay out."""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """Versions `first` to `last` of an account; amounts in minor units."""

    account: Account
    first: int
    last: int
    opening: int
    closing: int
    came_in: int
    went_out: int
    events: list[RecordedEvent]
    lines: list[ActivityLine]

    @property
    def code(self) -> str:
        """What a reader can compare with the ledger: the beginning of the last event's leaf hash."""
        return self.events[-1].leaf_hash.hex()[:16]


def statement_of(account_id: str, first: int, last: int) -> Statement:
    """The statement over the versions ``first <= version <= last``.

    Raises:
        InvalidInputError: there are no such versions, or more than LINES_MAX.
        NotFoundError: no such account.
    """
    end = store.head_version(account_id)
    if end == 0:
        raise NotFoundError(f"account {account_id} does not exist")
    if not 1 <= first <= last <= end:
        raise InvalidInputError(
            f"versions {first} to {last} are not there: the account has 1 to {end}",
            field="from_version",
        )
    if last - first >= LINES_MAX:
        raise InvalidInputError(
            f"more than {LINES_MAX} events: ask for a shorter period", field="until_version"
        )
    before = history.fold_to(account_id, first - 1)
    events = store.read_stream(account_id, after=first - 1, until=last, limit=LINES_MAX)
    lines = list(activity_lines(before, events))
    moved = [line.amount for line in lines if line.moves_money]
    return Statement(
        account=history.fold_to(account_id, last),
        first=first,
        last=last,
        opening=before.balance,
        closing=lines[-1].balance,
        came_in=sum(amount for amount in moved if amount > 0),
        went_out=sum(amount for amount in moved if amount < 0),
        events=events,
        lines=lines,
    )


def as_html(statement: Statement) -> str:
    """One page that needs nothing else, for screen and print."""
    return render_to_string("ledger/statement.html", {"statement": statement})


def as_pdf(statement: Statement) -> bytes:
    """The same page as a tagged PDF (PDF/UA-1).

    Raises:
        InvalidInputError: it has more than PDF_LINES_MAX lines.
        NotAvailableError: the system lacks Pango, which lays out the text.
    """
    if len(statement.lines) > PDF_LINES_MAX:
        raise InvalidInputError(
            f"more than {PDF_LINES_MAX} events do not fit a PDF: ask for a shorter period",
            field="until_version",
        )
    try:
        import weasyprint
    except OSError as error:
        raise NotAvailableError("PDF is not available: this system lacks Pango") from error
    document = weasyprint.HTML(string=as_html(statement))
    made: bytes = document.write_pdf(pdf_variant="pdf/ua-1")
    return made


def as_csv(statement: Statement) -> bytes:
    """One row an event."""
    return csvs.write(_HEADER, _rows(statement))


def as_xlsx(statement: Statement) -> bytes:
    """The same rows as a workbook; amounts are numbers there, exact to 15 digits, all else is text."""
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Statement")
    sheet.append(_HEADER)
    for row in _rows(statement):
        cells = []
        for name, value in zip(_HEADER, row, strict=True):
            cell = WriteOnlyCell(sheet)
            if name in ("amount", "balance") and value:
                cell.value, cell.number_format = Decimal(str(value)), "#,##0.00##"
            elif isinstance(value, int):
                cell.value = value
            else:
                cell.value, cell.data_type = ILLEGAL_CHARACTERS_RE.sub(" ", str(value)), "s"
            cells.append(cell)
        sheet.append(cells)
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


_HEADER = ("version", "position", "recorded_at", "effective_at", "kind", "amount", "balance",
           "currency", "counterpart", "note", "transaction_id", "actor")  # fmt: skip


def _rows(statement: Statement) -> Iterator[tuple[object, ...]]:
    for line in statement.lines:
        yield (
            line.version,
            line.position,
            line.recorded_at,
            line.effective_at,
            line.kind,
            format_amount(line.amount, line.currency) if line.moves_money else "",
            format_amount(line.balance, line.currency),
            line.currency,
            csvs.neutral(line.counterpart),
            csvs.neutral(privacy.reveal(line.note)),
            line.transaction_id,
            csvs.neutral(line.actor),
        )


FORMATS: Mapping[str, tuple[str, Callable[[Statement], bytes | str]]] = {
    "html": ("text/html; charset=utf-8", as_html),
    "pdf": ("application/pdf", as_pdf),
    "csv": ("text/csv; charset=utf-8", as_csv),
    "xlsx": (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        as_xlsx,
    ),
}
"""Content type and writer of every format."""
