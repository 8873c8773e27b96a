"""What is on the Kafka topics, as an AsyncAPI 3.0 document: every version of every event.

A topic is kept for ever, so a consumer that reads it from the start meets the old versions too.
"""

import json
from typing import Any

from ledger.codec import SCHEMAS
from ledger.domain.events import EVENT_TYPES, Event
from projections import wire

_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 1}


def document(*, partitions: int) -> dict[str, Any]:
    """The document. It holds no address of a broker: that is the operator's to say."""
    messages = {
        f"{name}.v{version}": _message(name, cls, version)
        for name, cls in sorted(EVENT_TYPES.items())
        for version in range(1, cls.schema_version + 1)
    }
    messages["Seal"] = {
        "name": "Seal",
        "title": "A signed tree head",
        "contentType": "text/plain; charset=UTF-8",
        "payload": {"type": "string", "description": "A C2SP tlog-checkpoint in a signed note."},
        "bindings": {"kafka": {"key": {"type": "string", "examples": ["events/1234"]}}},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ledger events",
            "version": "1",
            "description": (
                "Every event of the ledger, in the order of its account, at least once. A consumer "
                "keeps the last version per account and skips what it has seen. See docs/events.md."
            ),
        },
        "defaultContentType": wire.CONTENT_TYPE,
        "channels": {
            "events": {
                "address": "ledger.events",
                "messages": {name: _reference(name) for name in messages if name != "Seal"},
                "bindings": {"kafka": {"partitions": partitions, "topicConfiguration": _KEPT}},
            },
            "seals": {
                "address": "ledger.seals",
                "messages": {"Seal": _reference("Seal")},
                "bindings": {"kafka": {"partitions": 1, "topicConfiguration": _KEPT}},
            },
        },
        "operations": {
            "publishEvents": {"action": "send", "channel": {"$ref": "#/channels/events"}},
            "publishSeals": {"action": "send", "channel": {"$ref": "#/channels/seals"}},
        },
        "components": {"messages": messages},
    }


_KEPT = {"cleanup.policy": ["delete"], "retention.ms": -1}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}


def _message(name: str, cls: type[Event], version: int) -> dict[str, Any]:
    """A CloudEvent in structured JSON."""
    attributes = {
        "specversion": {"const": "1.0"},
        "id": {**_TEXT, "description": "The position."},
        "source": {"const": wire.SOURCE},
        "type": {"const": f"ledger.{name}.v{version}"},
        "subject": {**_TEXT, "format": "uuid", "description": "The account."},
        "time": {**_TIME, "description": "When the ledger recorded it."},
        "datacontenttype": {"const": "application/json"},
        "version": {**_COUNT, "description": "1, 2, 3 ... within the account."},
        "position": {**_COUNT, "description": "1, 2, 3 ... over the whole log."},
        "schemaversion": {"const": version},
        "effectiveat": {**_TIME, "description": "When it counts."},
        "leafhash": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        **dict.fromkeys(("commandid", "actor", "correlationid", "causationid", "channel"), _TEXT),
        "data": {**_payload(name, version), "description": "Amounts are integers of minor units."},
    }
    title = (cls.__doc__ or name).strip().splitlines()[0]
    until = f" Written until version {version + 1}." if version < cls.schema_version else ""
    return {
        "name": f"{name}.v{version}",
        "title": title + until,
        "contentType": wire.CONTENT_TYPE,
        "payload": {
            "type": "object",
            "properties": attributes,
            "required": sorted(attributes),
        },
        "bindings": {"kafka": {"key": {"type": "string", "format": "uuid"}}},
    }


def _payload(name: str, version: int) -> dict[str, Any]:
    """The JSON Schema of a payload, as it was released, without references to elsewhere."""
    text = (SCHEMAS / f"{name}.v{version}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)["$defs"][name]
    return found
