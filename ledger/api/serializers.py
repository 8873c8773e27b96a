"""Request JSON to commands, and outcomes to response JSON. Shape checks only; rules are `decide`'s.

Unknown fields are refused, text must be text, amounts are decimal strings, times carry an offset.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import uuid_utils.compat as uuid7
from rest_framework import serializers

from ledger import codec, privacy
from ledger.domain import commands as c
from ledger.domain.money import (
    check_currency,
    format_amount,
    parse_amount,
    parse_amount_or_zero,
    parse_signed,
)
from ledger.domain.state import Account
from ledger.domain.times import parse_time
from ledger.errors import InvalidInputError
from ledger.handlers import Outcome

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_COUNTERPART = re.compile(r"[a-z][a-z0-9_-]{0,31}(:[A-Za-z0-9._/-]{1,64})?", re.ASCII)
NAMESPACE_REFERENCE = uuid5(NAMESPACE_URL, "ledger:account-reference")
"""An account opened with a reference gets its id from it, so that a reference is unique."""


def is_uuid(text: str) -> bool:
    """Whether it is written as a UUID with hyphens, in either case."""
    return _UUID.fullmatch(text.lower()) is not None


def canonical_uuid(text: object, *, field: str) -> str:
    """The one spelling of an id: lower case with hyphens; other spellings are refused."""
    if isinstance(text, str) and is_uuid(text):
        return text.lower()
    raise InvalidInputError(
        "must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057", field=field
    )


def account_id_of(text: str) -> str:
    """The account that `text` names: itself if it is an id, otherwise by its reference."""
    return text if is_uuid(text) else account_id_of_reference(text)


def account_id_of_reference(reference: str) -> str:
    """The id of the account with this reference."""
    return str(uuid5(NAMESPACE_REFERENCE, reference))


def clean_text(text: object, *, field: str, length: int, required: bool = False) -> str:
    """`text` if it is a string of printable characters, trimmed, at most `length` long.

    Raises:
        InvalidInputError: it is not, or is empty though `required`.
    """
    if not isinstance(text, str):
        raise InvalidInputError("must be a string", field=field)
    text = text.strip()
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise InvalidInputError("must not hold control characters or half surrogates", field=field)
    if len(text) > length:
        raise InvalidInputError(f"is {len(text)} characters long: at most {length}", field=field)
    if required and not text:
        raise InvalidInputError("must not be empty", field=field)
    return text


class _StrictField(serializers.Field[Any, Any, Any, Any]):
    """A field whose check is one of the functions above. For requests only."""

    def check(self, value: Any) -> Any:
        """Return the clean value or raise `InvalidInputError`."""
        raise NotImplementedError


class IdField(_StrictField):
    """An account, hold or transaction id."""

    def check(self, value: Any) -> str:
        """See `canonical_uuid`."""
        return canonical_uuid(value, field="")


class TextField(_StrictField):
    """Free text."""

    def __init__(self, *, length: int, **options: Any) -> None:
        super().__init__(**options)
        self.length = length

    def check(self, value: Any) -> str:
        """See `clean_text`."""
        return clean_text(value, field="", length=self.length, required=self.required)


class CounterpartField(_StrictField):
    """The outside counterpart: ``cash``, ``fees``, ``bank:DE89...``."""

    def check(self, value: Any) -> str:
        """A kind in lower case, optionally a colon and a reference."""
        if isinstance(value, str) and _COUNTERPART.fullmatch(value):
            return value
        raise InvalidInputError('must look like "cash" or "bank:REFERENCE"', field="")


class TimeField(_StrictField):
    """RFC 3339 with offset."""

    def check(self, value: Any) -> datetime:
        """See `parse_time`."""
        return parse_time(value, field="")


class CurrencyField(_StrictField):
    """ISO 4217, in capitals."""

    def check(self, value: Any) -> str:
        """See `check_currency`."""
        return check_currency(value, field="")


class AmountField(_StrictField):
    """A decimal string; read with the currency of the same request, see `StrictSerializer`."""

    def __init__(
        self, *, currency: str = "currency", kind: str = "positive", **options: Any
    ) -> None:
        super().__init__(**options)
        self.currency = currency
        self.kind = kind

    def check(self, value: Any) -> Any:
        """Kept as sent until the currency is known."""
        return value

    def minor(self, value: Any, currency: str) -> int:
        """The minor units of `value` in `currency`."""
        parse = {"positive": parse_amount, "or_zero": parse_amount_or_zero, "signed": parse_signed}
        return parse[self.kind](value, currency, field=self.field_name or "amount")


class FlagField(_StrictField):
    """True or false."""

    def check(self, value: Any) -> bool:
        """Only JSON's own two words."""
        if isinstance(value, bool):
            return value
        raise InvalidInputError("must be true or false", field="")


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses unknown fields and turns amounts into minor units. Its fields are strict ones.

    It checks them in one loop: the framework's own, made for forms and models, takes four times
    as long.
    """

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """The clean values by field name.

        Raises:
            InvalidInputError: lists every field that is wrong.
        """
        if not isinstance(data, dict):
            raise InvalidInputError("must be a JSON object")
        values: dict[str, Any] = {}
        fields: Mapping[str, _StrictField] = self.fields  # type: ignore[assignment]  # see the class
        listed = [
            {
                "field": name,
                "code": "unknown_field",
                "detail": f"is not known here; allowed are {', '.join(fields)}",
            }
            for name in data
            if name not in fields
        ]
        for name, field in fields.items():
            try:
                if name in data:
                    values[name] = field.check(data[name])
                elif field.required:
                    raise InvalidInputError("is required", field=name)
            except InvalidInputError as error:
                listed.append({"field": name, "code": "invalid_field", "detail": error.detail})
        if not listed:
            listed = self._read_amounts(values)
        if listed:
            first = listed[0]
            raise InvalidInputError(f"{first['field']}: {first['detail']}", errors=listed)
        return values

    def _read_amounts(self, values: dict[str, Any]) -> list[dict[str, str]]:
        listed = []
        for name, field in self.fields.items():
            if not isinstance(field, AmountField) or name not in values:
                continue
            currency = values.get(field.currency) or values.get("currency")
            try:
                if currency is None:
                    raise InvalidInputError("needs a currency beside it", field=name)
                values[name] = field.minor(values[name], currency)
            except InvalidInputError as error:
                listed.append({"field": name, "code": "invalid_field", "detail": error.detail})
        return listed


class OpenAccountSerializer(StrictSerializer):
    """Open an account. With a `reference` the id follows from it; an `account_id` may be chosen."""

    account_id = IdField(required=False)
    holder = TextField(length=200)
    currency = CurrencyField()
    owner = TextField(length=150, required=False)
    reference = TextField(length=64, required=False)
    overdraft_limit = AmountField(kind="or_zero", required=False)
    effective_at = TimeField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """An id and a reference cannot both decide."""
        if attrs.get("account_id") and attrs.get("reference"):
            raise InvalidInputError(
                "send either account_id or reference: the id follows from the reference",
                field="account_id",
            )
        return attrs


class MovementSerializer(StrictSerializer):
    """A deposit or withdrawal."""

    amount = AmountField()
    currency = CurrencyField()
    counterpart = CounterpartField(required=False)
    memo = TextField(length=500, required=False)
    effective_at = TimeField(required=False)


class TransferSerializer(StrictSerializer):
    """A transfer; the credited fields only between two currencies."""

    from_account_id = IdField()
    to_account_id = IdField()
    amount = AmountField()
    currency = CurrencyField()
    credited_amount = AmountField(currency="credited_currency", required=False)
    credited_currency = CurrencyField(required=False)
    memo = TextField(length=500, required=False)
    effective_at = TimeField(required=False)


class HoldSerializer(StrictSerializer):
    """Reserve an amount."""

    amount = AmountField()
    currency = CurrencyField()
    counterpart = CounterpartField(required=False)
    expires_at = TimeField(required=False)
    memo = TextField(length=500, required=False)


class CaptureSerializer(StrictSerializer):
    """Take held money: all that is left, or `amount` (then `currency` too); `final` frees the rest."""

    amount = AmountField(required=False)
    currency = CurrencyField(required=False)
    final = FlagField(required=False)
    memo = TextField(length=500, required=False)


class EmptySerializer(StrictSerializer):
    """No fields."""


class ReverseSerializer(StrictSerializer):
    """Reverse a transaction, in whole or up to `amount`."""

    transaction_id = IdField()
    reason = TextField(length=500)
    amount = AmountField(required=False)
    currency = CurrencyField(required=False)


class AdjustSerializer(StrictSerializer):
    """Correct a balance by a signed amount; `corrects` names the transaction that was wrong."""

    amount = AmountField(kind="signed")
    currency = CurrencyField()
    reason = TextField(length=500)
    corrects = IdField(required=False)
    effective_at = TimeField(required=False)


class ReasonSerializer(StrictSerializer):
    """Why."""

    reason = TextField(length=500)


class LimitSerializer(StrictSerializer):
    """The new overdraft limit, zero or more."""

    limit = AmountField(kind="or_zero")
    currency = CurrencyField()


class HolderSerializer(StrictSerializer):
    """The new holder, and the user name of the customer who may see the account."""

    holder = TextField(length=200)
    owner = TextField(length=150, required=False)


class CloseSerializer(StrictSerializer):
    """Why, if there is something to say."""

    reason = TextField(length=500, required=False)


class EraseSerializer(StrictSerializer):
    """The legal basis or the request, without naming anybody: it is kept for ever."""

    ground = TextField(length=200)


class CommandsField(_StrictField):
    """The commands of a batch."""

    def check(self, value: Any) -> list[dict[str, Any]]:
        """1 to BATCH_COMMANDS_MAX objects."""
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise InvalidInputError("must be a list of objects", field="")
        if not 1 <= len(value) <= BATCH_COMMANDS_MAX:
            raise InvalidInputError(
                f"holds {len(value)} commands: allowed are 1 to {BATCH_COMMANDS_MAX}", field=""
            )
        return value


BATCH_COMMANDS_MAX = 1000


class BatchSerializer(StrictSerializer):
    """Commands in order; `atomic` makes them stand or fall together."""

    atomic = FlagField(required=False)
    commands = CommandsField()


BODY: Mapping[str, type[StrictSerializer]] = {
    "OpenAccount": OpenAccountSerializer,
    "Deposit": MovementSerializer,
    "Withdraw": MovementSerializer,
    "Transfer": TransferSerializer,
    "PlaceHold": HoldSerializer,
    "CaptureHold": CaptureSerializer,
    "ReleaseHold": EmptySerializer,
    "ReverseTransaction": ReverseSerializer,
    "AdjustBalance": AdjustSerializer,
    "FreezeAccount": ReasonSerializer,
    "UnfreezeAccount": ReasonSerializer,
    "SetOverdraftLimit": LimitSerializer,
    "ChangeHolder": HolderSerializer,
    "CloseAccount": CloseSerializer,
    "EraseHolder": EraseSerializer,
}
"""Command name to the shape of its body; ids that stand in the URL are not in the body."""


@cache
def _shape(name: str) -> StrictSerializer:
    """One serializer for all requests: validating keeps nothing in it, copying its fields costs."""
    return BODY[name]()


def command_of(name: str, body: Any, ids: Mapping[str, str]) -> tuple[c.Command, dict[str, Any]]:
    """The command of a request, and what the sender said, for the fingerprint.

    `ids` are those from the URL.

    Raises:
        InvalidInputError: lists every field that is wrong.
    """
    clean = _shape(name).run_validation(body)
    values = {field: value for field, value in clean.items() if value != ""}
    said = {**values, **ids}
    if name in ("CaptureHold", "ReverseTransaction"):
        values.pop("currency", None)
    made: dict[str, str] = {}
    if name == "OpenAccount" and "account_id" not in values:
        reference = values.get("reference")
        made["account_id"] = account_id_of_reference(reference) if reference else str(uuid7.uuid7())
    return c.COMMANDS[name](**values, **ids, **made), said


def account_as_json(account: Account, *, now: datetime) -> dict[str, Any]:
    """An account for the outside; `available` is that at `now`, expired holds no longer counted."""
    due = sum(hold.amount for _, hold in account.due_holds(now))

    def money(minor: int) -> str:
        return format_amount(minor, account.currency)

    return {
        "id": account.account_id,
        "version": account.version,
        "status": account.status,
        "holder": privacy.reveal(account.holder),
        "owner": account.owner,
        "reference": account.reference,
        "currency": account.currency,
        "balance": money(account.balance),
        "held": money(account.held - due),
        "available": money(account.available_at(now)),
        "overdraft_limit": money(account.overdraft_limit),
        "transactions": account.transactions,
        "holds": [
            {
                "id": hold_id,
                "amount": money(hold.amount),
                "counterpart": hold.counterpart,
                "expires_at": codec.format_time(hold.expires_at) if hold.expires_at else None,
            }
            for hold_id, hold in account.holds.items()
            if hold.expires_at is None or hold.expires_at > now
        ],
    }


def outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    """An accepted outcome for the outside, the same at first and at every replay."""
    moment = outcome.recorded_at or outcome.received_at
    return {
        "command_id": outcome.command_id,
        "command": outcome.name,
        "status": "would_be_accepted" if outcome.dry_run else "accepted",
        "recorded_at": codec.format_time(outcome.recorded_at) if outcome.recorded_at else None,
        "first_position": outcome.first_position,
        "last_position": outcome.last_position,
        "events": [
            {
                "account_id": event.account_id,
                "version": event.version,
                "position": event.position,
                "type": event.type,
            }
            for event in outcome.events
        ],
        "accounts": [account_as_json(account, now=moment) for account in outcome.accounts],
    }


def event_as_json(recorded: codec.RecordedEvent, *, is_revealed: bool = False) -> dict[str, Any]:
    """An event for the outside, amounts in minor units; the payload as stored, its words perhaps sealed.

    `is_revealed` shows the words to those who may read the account.
    """
    payload = codec.decode_json(recorded.payload)
    return {
        "position": recorded.position,
        "account_id": recorded.account_id,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "payload": privacy.revealed(payload) if is_revealed else payload,
        "metadata": codec.decode_json(codec.encode(recorded.metadata)),
        "effective_at": codec.format_time(recorded.effective_at),
        "recorded_at": codec.format_time(recorded.recorded_at),
        "leaf_hash": recorded.leaf_hash.hex(),
    }
