"""Pure: CSV that a spreadsheet shows as it is, and never runs."""

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def neutral(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe before what looks like one.

    Source: OWASP, CSV Injection. For free text only; amounts are written as they are.
    """
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def write(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """RFC 4180, UTF-8."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode()
