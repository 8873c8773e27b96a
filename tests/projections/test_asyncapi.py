"""The document of the topics against what is really sent."""

from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from ledger import store
from ledger.domain import commands as c
from ledger.domain.events import EVENT_TYPES
from projections import asyncapi, wire
from tests.conftest import Sender


def test_every_kind_of_event_is_in_it_and_messages_fit(live_db: None, send: Sender) -> None:
    found = asyncapi.document(partitions=12)
    messages: dict[str, Any] = found["components"]["messages"]
    listed = set(found["channels"]["events"]["messages"])
    assert listed == {
        f"{name}.v{version}"
        for name, cls in EVENT_TYPES.items()
        for version in range(1, cls.schema_version + 1)
    }
    before = store.last_position()
    payer, payee = send.open(balance=1000), send.open()
    send(c.Transfer(from_account_id=payer, to_account_id=payee, amount=5, currency="EUR"))
    held = send(c.PlaceHold(account_id=payer, amount=5, currency="EUR"))
    send(c.CaptureHold(account_id=payer, hold_id=held.command_id))
    send(c.FreezeAccount(account_id=payer, reason="r"))
    kinds = set()
    for event in store.read_log(after=before):
        name = f"{event.type}.v{event.schema_version}"
        validator = Draft202012Validator(messages[name]["payload"])
        value = msgspec.json.decode(wire.to_message(event))
        assert list(validator.iter_errors(value)) == []
        assert list(validator.iter_errors({**value, "data": {}})) != []
        assert list(validator.iter_errors({**value, "type": "ledger.Other.v1"})) != []
        kinds.add(event.type)
    assert len(kinds) == 7
