import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ledger import codec, store, upcasters
from ledger.domain import commands as c
from ledger.domain import events as e
from ledger.domain.events import EVENT_TYPES
from ledger.errors import StateIncompleteError
from ledger.management.commands.makeschemas import find_changes
from tests.conftest import Sender

GOLDEN = Path(__file__).parent.parent / "golden"
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


class TestCanonical:
    @given(st.dictionaries(keys, values, max_size=5))
    def test_is_rfc8785(self, value: dict[str, object]) -> None:
        assert codec.canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]  # JSON values

    @given(st.dictionaries(keys, values, max_size=5))
    def test_survives_a_second_round_trip(self, value: dict[str, object]) -> None:
        once = codec.canonical(value)
        assert codec.canonical(json.loads(once)) == once


class TestTimes:
    @given(st.datetimes(datetime(1900, 1, 1), datetime(8999, 12, 31)))  # noqa: DTZ001
    def test_have_one_spelling(self, naive: datetime) -> None:
        moment = naive.replace(tzinfo=UTC)
        assert codec.from_micros(codec.to_micros(moment)) == moment
        assert len(codec.format_time(moment)) == 27
        assert codec.parse_stored_time(codec.format_time(moment)) == moment


class TestLeafHash:
    def test_follows_the_written_spec(self) -> None:
        """What ledger/codec.py says, computed here with nothing but the standard library."""
        document = (
            '{"account_id":"00000000-0000-4000-8000-000000000001","effective_at":'
            '"2026-01-02T03:04:05.000000Z","metadata":{"actor":"a"},"payload":{"amount":5,"memo":"é"},'
            '"schema_version":1,"type":"MoneyDeposited","version":2}'
        )
        digest = hashlib.sha256(document.encode()).digest()
        assert digest == codec.digest(
            codec.content(
                account_id="00000000-0000-4000-8000-000000000001",
                version=2,
                event_type="MoneyDeposited",
                schema_version=1,
                payload={"memo": "é", "amount": 5},
                metadata={"actor": "a"},
                effective_at=codec.format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            )
        )
        micros = 1767323045000001
        leaf = hashlib.sha256(
            b"\x00" + (7).to_bytes(8, "big") + micros.to_bytes(8, "big") + digest
        ).digest()
        assert codec.leaf_hash(7, codec.from_micros(micros), digest) == leaf

    def test_of_every_stored_event_verifies(self, send: Sender) -> None:
        account = send.open(balance=500)
        other = send.open()
        send(
            c.PlaceHold(
                account_id=account,
                amount=5,
                currency="EUR",
                memo="naïve “quotes” \u2028 𝄞",
                expires_at=datetime.now(UTC) + timedelta(days=1),
            )
        )
        send(c.Transfer(from_account_id=account, to_account_id=other, amount=5, currency="EUR"))
        recorded = store.read_stream(account)
        assert len(recorded) == 4
        for event in recorded:
            assert codec.leaf_hash_of(event) == event.leaf_hash

    @pytest.mark.parametrize(
        "change",
        [
            {"position": 99}, {"version": 99}, {"type": "MoneyWithdrawn"}, {"schema_version": 9},
            {"payload": '{"amount":6}'}, {"account_id": "00000000-0000-4000-8000-00000000000f"},
            {"effective_at": datetime(2020, 1, 1, tzinfo=UTC)},
            {"recorded_at": datetime(2020, 1, 1, tzinfo=UTC)},
            {"metadata": codec.Metadata(
                command_id="x", actor="y", correlation_id="z", causation_id="z", channel="api")},
        ],
    )  # fmt: skip
    def test_covers_every_column(self, send: Sender, change: dict[str, object]) -> None:
        [event] = store.read_stream(send.open())
        changed = msgspec.structs.replace(event, **change)
        assert codec.leaf_hash_of(changed) != event.leaf_hash


class TestDecodeEvent:
    @pytest.mark.parametrize(
        ("event_type", "version", "payload"),
        [
            ("FeeCharged", 1, '{"amount":5}'),
            ("MoneyDeposited", 99, '{"amount":5}'),
            ("MoneyDeposited", 1, '{"amount":"abc"}'),
            ("MoneyDeposited", 1, "[]"),
        ],
    )
    def test_says_when_it_does_not_know(self, event_type: str, version: int, payload: str) -> None:
        with pytest.raises(StateIncompleteError, match=event_type):
            codec.decode_event(event_type, version, payload)


class TestGolden:
    @pytest.mark.parametrize("name", sorted(EVENT_TYPES))
    def test_every_version_ever_stored_upcasts_to_the_newest(self, name: str) -> None:
        for version in range(1, EVENT_TYPES[name].schema_version + 1):
            path = GOLDEN / f"{name}.v{version}.json"
            assert path.exists(), f"keep an example of {name} version {version} in {path}"
            event = codec.decode_event(name, version, path.read_bytes())
            assert isinstance(event, EVENT_TYPES[name])

    def test_schemas_are_written(self) -> None:
        assert find_changes() == []

    def test_a_changed_payload_without_a_new_version_is_found(self, tmp_path: Path) -> None:
        for path, wanted, _ in find_changes(tmp_path):
            path.write_text(wanted.replace('"amount"', '"sum"'))
        problems = [problem for _, _, problem in find_changes(tmp_path)]
        assert problems
        assert all("raise the schema_version" in problem for problem in problems)

    def test_old_samples_fit_the_schema_that_was_released_with_them(self) -> None:
        for path in sorted(GOLDEN.glob("*.json")):
            schema = json.loads((codec.SCHEMAS / path.name).read_bytes())
            validator = Draft202012Validator(schema)
            assert list(validator.iter_errors(json.loads(path.read_bytes()))) == [], path.name

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (
                "BalanceAdjusted",
                e.BalanceAdjusted(
                    transaction_id="01900000-0000-7000-8000-000000000001", amount=-5, currency="EUR",
                    counterpart="adjustment", corrects="", reason="rounding",
                ),
            ),
            (
                "HoldCaptured",
                e.HoldCaptured(
                    transaction_id="01900000-0000-7000-8000-000000000001",
                    hold_id="01900000-0000-7000-8000-00000000000b", amount=300, currency="EUR",
                    counterpart="card", final=False,
                ),
            ),
            ("OverdraftLimitSet", e.OverdraftLimitSet(overdraft_limit=5000)),
        ],
    )  # fmt: skip
    def test_what_version_1_says_now(self, name: str, expected: e.Event) -> None:
        assert codec.decode_event(name, 1, (GOLDEN / f"{name}.v1.json").read_bytes()) == expected

    def test_a_released_schema_is_kept(self, tmp_path: Path) -> None:
        lost = [path.name for path, wanted, _ in find_changes(tmp_path) if not wanted]
        assert lost == [
            "HoldCaptured.v1.json",
            "BalanceAdjusted.v1.json",
            "OverdraftLimitSet.v1.json",
        ]


class TestUpcasters:
    def test_gaps_duplicates_and_strays_are_named(self) -> None:
        def same(payload: dict[str, object]) -> dict[str, object]:
            return payload

        steps = {("Opened", 1): same, ("Opened", 3): same, ("Gone", 1): same}
        problems = upcasters.find_gaps({"Opened": 3}, steps)
        assert problems == [
            "Gone: upcaster from schema version 1 leads past the current version",
            "Opened: no upcaster from schema version 2 to 3",
            "Opened: upcaster from schema version 3 leads past the current version",
        ]
        with pytest.raises(ValueError, match="two upcasters"):
            for _ in range(2):
                upcasters.upcaster("Opened", 7)(same)
        del upcasters.UPCASTERS["Opened", 7]

    def test_a_v1_payload_is_read_as_v3(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = {
            ("HoldReleased", 1): lambda old: {"hold_id": old["hold"], "sum": old["sum"]},
            ("HoldReleased", 2): lambda old: {"hold_id": old["hold_id"], "amount": old["sum"]},
        }
        monkeypatch.setattr(upcasters, "UPCASTERS", steps)
        monkeypatch.setattr(EVENT_TYPES["HoldReleased"], "schema_version", 3)
        event = codec.decode_event("HoldReleased", 1, '{"hold":"h","sum":5}')
        assert event == EVENT_TYPES["HoldReleased"](hold_id="h", amount=5)
