"""Pure: the first sheet of an XLSX file as CSV text, for whatever reads CSV.

A workbook stores an amount as the decimal digits that were typed; the library hands them over as the
nearest binary fraction, whose shortest form is those digits again, up to 15 of them. A date without
a time is written YYYY-MM-DD; one with a time has no offset, and is left for the reader to refuse.
"""

import csv
import io
import zipfile
from datetime import date, datetime, time
from decimal import Decimal
from numbers import Real

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from ledger.errors import InvalidInputError

MAGIC = b"PK\x03\x04"
UNPACKED_MAX = 200 * 1024 * 1024
ROWS_MAX = 200_000


def csv_text(content: bytes) -> str:
    """The cells of the first sheet.

    Raises:
        InvalidInputError: it is no workbook, or would take too much to read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            unpacked = sum(item.file_size for item in packed.infolist())
        if unpacked > UNPACKED_MAX:
            raise InvalidInputError(
                "the workbook is too large when unpacked: save it as CSV", field="file"
            )
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise InvalidInputError(
            "the file is no XLSX workbook that can be read", field="file"
        ) from error
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
        if number > ROWS_MAX:
            raise InvalidInputError(f"the sheet has more than {ROWS_MAX} rows", field="file")
        cells = [_shown(cell) for cell in row]
        if any(cells):
            writer.writerow(cells)
    return text.getvalue()


def _shown(cell: object) -> str:
    match cell:
        case None:
            return ""
        case int():
            return str(cell)
        case Real():
            typed = Decimal(repr(cell))
            whole = typed.to_integral_value()
            return format(whole if whole == typed else typed, "f")
        case datetime():
            return cell.date().isoformat() if cell.time() == time() else cell.isoformat()
        case date():
            return cell.isoformat()
        case _:
            return " ".join(str(cell).split())
