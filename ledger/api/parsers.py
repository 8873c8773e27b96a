"""JSON bodies: one object, no duplicate keys, no NaN, bounded in size and depth."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from ledger.errors import InvalidInputError

BODY_MAX = 2 * 1024 * 1024
"""Bytes: a batch of 1,000 commands with full memos fits."""


class StrictJSONParser(BaseParser):
    """Parses ``application/json`` and refuses what `json` lets through."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the object in the body.

        Raises:
            ParseError: it is not JSON.
            InvalidInputError: it is JSON, but not an acceptable object.
        """
        body = stream.read(BODY_MAX + 1)
        if len(body) > BODY_MAX:
            raise InvalidInputError(f"the body is larger than {BODY_MAX} bytes")
        try:
            value = json.loads(
                body.decode("utf-8"),
                object_pairs_hook=_without_duplicates,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ParseError(f"the body is not valid JSON: {reason}") from error
        if not isinstance(value, dict):
            raise InvalidInputError("the body must be a JSON object")
        return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
