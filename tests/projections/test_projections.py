"""Relay, projector, rebuild and queries, each on a real Kafka broker and on the log bus."""

import itertools
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not re-exported
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from django.conf import settings as django_settings
from django.db import connection

from audit import checks, notes, seals, verify
from ledger import codec, history, store
from ledger.codec import RecordedEvent
from ledger.domain import commands as c
from ledger.domain.state import Account, evolve
from ledger.errors import StateIncompleteError
from projections import apply, balances, feeds, kafka, queries, rebuild, redis_store, relay, wire
from projections.kafka import BrokerUnavailableError
from projections.models import Generation, Parked, Relay
from projections.projector import OtherLogError, Projector
from tests.conftest import Sender, in_threads, superuser
from tests.ledger.test_bus import inject_event
from tests.system import wait_for

Projectors = Callable[[], Projector]


@pytest.fixture
def new_projector() -> Iterator[Projectors]:
    """Makes projectors, closed at the end."""
    made: list[Projector] = []

    def make() -> Projector:
        made.append(Projector())
        return made[-1]

    yield make
    for projector in made:
        projector.close()


@pytest.fixture
def world(
    own_log: str, own_redis: str, event_bus: str, send_own: Sender, monkeypatch: Any
) -> Sender:
    """A log, Redis keys and a topic of one's own, with a live generation; no Celery needed."""

    def build_now(generation: Generation) -> None:
        for shard in range(generation.shards_total):
            rebuild.build_shard(generation.pk, shard)

    monkeypatch.setattr(rebuild, "dispatch", build_now)
    rebuild.ensure(reason="test")
    return send_own


@pytest.fixture(autouse=True)
def without_memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Reads ask every time, but where a test is about what they keep."""
    if request.node.get_closest_marker("memory") is None:
        monkeypatch.setattr(queries, "BEARINGS_SECONDS", -1.0)
        monkeypatch.setattr(queries, "IDENTIFIED_SECONDS", -1.0)
        monkeypatch.setattr(
            queries._entries,
            "get",
            lambda generation, account, _: redis_store.read(generation, account),
        )


def settle(projector: Projector) -> None:
    """Relay and project until the projections say that they hold everything."""
    for _ in range(400):
        relay.run(budget_seconds=30, linger_seconds=0)
        projector.step()
        if queries.health().generation and queries.health().lag_events == 0:
            return
    raise AssertionError(f"not settled: {queries.health()}")


def traffic(send: Sender, rounds: int = 20, seed: int = 1) -> list[str]:
    """Accounts with deposits, withdrawals, transfers and holds."""
    dice = random.Random(seed)
    accounts = [send.open(balance=10_000) for _ in range(5)]
    for _ in range(rounds):
        payer, payee = dice.sample(accounts, 2)
        amount = dice.randint(1, 900)
        command: c.Command = dice.choice(
            [
                c.Deposit(account_id=payer, amount=amount, currency="EUR", counterpart="bank:1"),
                c.Withdraw(account_id=payer, amount=amount, currency="EUR"),
                c.PlaceHold(account_id=payer, amount=amount, currency="EUR"),
                c.Transfer(
                    from_account_id=payer, to_account_id=payee, amount=amount, currency="EUR"
                ),
            ]
        )
        send(command)
    return accounts


def assert_redis_equals_replay() -> None:
    """Accounts, activity, summary and totals are what a fold of the whole log gives."""
    live, _ = redis_store.generations()
    totals: dict[str, int] = {}
    ids = store.account_ids_after("00000000-0000-0000-0000-000000000000", 10_000)
    for account_id in ids:
        events = store.read_stream(account_id, limit=100_000)
        expected = balances.project(Account(account_id=account_id), events)
        [entry] = redis_store.load(live, [account_id])
        assert entry is not None
        assert (entry.account, entry.position) == (expected.account, expected.position)
        assert redis_store.activity(live, account_id, 100) == expected.activity[::-1]
        assert redis_store.summary(live, account_id) == expected.summary
        for name, amount in expected.totals.items():
            totals[name] = totals.get(name, 0) + amount
    assert redis_store.totals(live) == totals


def topic_records() -> dict[int, list[dict[str, Any]]]:
    """Everything in the topic, by partition."""
    topic = relay.topic_from_settings()
    ends = kafka.end_offsets(topic, AdminClient({"bootstrap.servers": topic.servers}))
    consumer = Consumer({"bootstrap.servers": topic.servers, "group.id": uuid4().hex})
    consumer.assign([TopicPartition(topic.name, number, 0) for number in ends])
    records: dict[int, list[dict[str, Any]]] = {number: [] for number in ends}
    for _ in range(sum(ends.values())):
        message = consumer.poll(10)
        assert message is not None
        assert message.error() is None
        value = json.loads(message.value() or b"")
        assert (message.key() or b"").decode() == value["subject"]
        records[int(message.partition() or 0)].append(value)
    consumer.close()
    return records


def assert_topic_is_the_log() -> None:
    """Every event once, each account's in order and without a gap."""
    records = topic_records()
    positions = sorted(record["position"] for part in records.values() for record in part)
    assert positions == list(range(1, store.last_position() + 1))
    for number, part in records.items():
        versions: dict[str, int] = {}
        for record in part:
            assert wire.partition_of(record["subject"], 12) == number
            assert record["version"] == versions.get(record["subject"], 0) + 1
            versions[record["subject"]] = record["version"]


class TestWire:
    @pytest.mark.parametrize(
        ("key", "value"),
        [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536),
         (b"a-little-bit-longer-string", -1486304829),
         (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971), (b"abc", 479470107)],
    )  # fmt: skip
    def test_partitions_as_java_does(self, key: bytes, value: int) -> None:
        """The vectors of Kafka's own test, UtilsTest.testMurmur2."""
        assert wire.murmur2(key) == value & 0xFFFFFFFF

    def test_message_is_a_cloud_event_and_round_trips(self, send: Sender) -> None:
        [event] = store.read_stream(send.open())
        value = json.loads(wire.to_message(event))
        assert value["specversion"] == "1.0"
        assert value["id"] == str(event.position)
        assert value["type"] == "ledger.AccountOpened.v1"
        assert all(name.isalnum() and name.islower() for name in value)
        again = wire.from_message(wire.to_message(event))
        assert codec.leaf_hash_of(again) == event.leaf_hash
        assert again.event == event.event


@pytest.mark.parametrize("event_bus", ["kafka"], indirect=True)
class TestRelay:
    def test_copies_every_event_once_in_order(self, world: Sender) -> None:
        traffic(world, 60)
        assert relay.run(budget_seconds=30, linger_seconds=0) == store.last_position()
        assert_topic_is_the_log()
        assert (
            Relay.objects.get(topic=django_settings.LEDGER_TOPIC).position == store.last_position()
        )

    def test_killed_between_produce_and_bookkeeping_leaves_no_gap_and_no_double(
        self, world: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever prefix the broker has, and whatever the note says, the rest is added once."""
        traffic(world, 30)
        topic = relay.topic_from_settings()
        kafka.ensure_topic(topic)
        events = store.read_log(after=0)
        kafka.Publisher(topic).publish(events[:17])
        relay.run(budget_seconds=30, linger_seconds=0)
        assert_topic_is_the_log()
        traffic(world, 10, seed=2)
        monkeypatch.setattr(relay._Copy, "note", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            relay.run(budget_seconds=30, linger_seconds=0)
        monkeypatch.undo()
        relay.run(budget_seconds=30, linger_seconds=0)
        assert_topic_is_the_log()

    def test_partitions_that_got_different_shares_are_filled_up(self, world: Sender) -> None:
        """A kill in the middle: some partitions have acknowledged more than others."""
        traffic(world, 40)
        topic = relay.topic_from_settings()
        kafka.ensure_topic(topic)
        events = store.read_log(after=0)
        dice = random.Random(3)
        cut = {number: dice.randint(0, len(events)) for number in range(12)}
        reached = [e for e in events if e.position <= cut[wire.partition_of(e.account_id, 12)]]
        kafka.Publisher(topic).publish(reached)
        relay.run(budget_seconds=30, linger_seconds=0)
        assert_topic_is_the_log()

    def test_two_relays_do_the_work_of_one(self, world: Sender) -> None:
        traffic(world, 60)
        in_threads(4, lambda _: relay.run(budget_seconds=30, linger_seconds=0))
        relay.run(budget_seconds=30, linger_seconds=0)
        assert_topic_is_the_log()

    def test_a_topic_that_lost_everything_is_filled_again(self, world: Sender) -> None:
        traffic(world, 20)
        relay.run(budget_seconds=30, linger_seconds=0)
        topic = relay.topic_from_settings()
        admin = AdminClient({"bootstrap.servers": topic.servers})
        admin.delete_topics([topic.name])[topic.name].result(10)
        for _ in range(100):
            if topic.name not in admin.list_topics(timeout=10).topics:
                break
        for _ in range(20):
            if relay.run(budget_seconds=30, linger_seconds=0):
                break
        assert_topic_is_the_log()

    def test_a_broker_that_is_away_loses_nothing(self, world: Sender, settings: Any) -> None:
        traffic(world, 10)
        servers = settings.KAFKA_BOOTSTRAP_SERVERS
        settings.KAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:1"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)
            assert relay.run(budget_seconds=5, linger_seconds=0) == 0
        assert (
            world(c.OpenAccount(account_id=str(uuid4()), holder="x", currency="EUR")).error is None
        )
        assert Relay.objects.get(topic=settings.LEDGER_TOPIC).error
        settings.KAFKA_BOOTSTRAP_SERVERS = servers
        relay.run(budget_seconds=30, linger_seconds=0)
        assert Relay.objects.get(topic=settings.LEDGER_TOPIC).error == ""
        assert_topic_is_the_log()

    def test_a_log_behind_its_topic_stops_it(self, world: Sender) -> None:
        """A database restored to the past: going on would reuse positions."""
        [event] = store.read_stream(world.open())
        topic = relay.topic_from_settings()
        kafka.ensure_topic(topic)
        import msgspec

        kafka.Publisher(topic).publish([msgspec.structs.replace(event, position=10_000)])
        with pytest.raises(relay.LogBehindTopicError, match="restored"):
            relay.run(budget_seconds=5, linger_seconds=0)

    def test_a_compacted_or_resized_topic_is_refused(self, world: Sender, settings: Any) -> None:
        topic = relay.topic_from_settings()
        admin = AdminClient({"bootstrap.servers": topic.servers})
        for config, partitions in (({"cleanup.policy": "compact"}, 12), ({}, 3)):
            name = f"{topic.name}.{partitions}"
            new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
            admin.create_topics([new])[name].result(10)
            wrong = kafka.Topic(servers=topic.servers, name=name, partitions=12)
            for _ in range(100):
                if name in admin.list_topics(timeout=10).topics:
                    break
            with pytest.raises(kafka.TopicMismatchError):
                kafka.ensure_topic(wrong)
            settings.LEDGER_TOPIC = name  # the verification says so and goes on
            assert name in relay.problem_with_topic()


class TestProjector:
    def test_redis_equals_replay(self, world: Sender, new_projector: Projectors) -> None:
        traffic(world, 80)
        settle(new_projector())
        assert_redis_equals_replay()

    def test_a_second_life_repeats_work_and_changes_nothing(
        self, world: Sender, new_projector: Projectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed after the writes and before the progress was noted, again and again."""
        for seed in range(3):
            traffic(world, 20, seed=seed)
            relay.run(budget_seconds=30, linger_seconds=0)
            with monkeypatch.context() as patch:
                patch.setattr(redis_store, "save_progress", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    for _ in range(50):
                        new_projector().step()
        settle(new_projector())
        assert_redis_equals_replay()

    def test_redelivery_reordering_and_holes_are_harmless(self, world: Sender) -> None:
        accounts = traffic(world, 40)
        live, _ = redis_store.generations()
        events = store.read_log(after=0)
        dice = random.Random(5)
        for account_id in accounts:
            mine = [event for event in events if event.account_id == account_id]
            for event in [*dice.sample(mine, len(mine)), *mine, mine[-1], mine[0]]:
                apply.apply_events(live, [event])
        assert_redis_equals_replay()

    def test_two_projectors_on_one_generation_do_not_double(self, world: Sender) -> None:
        accounts = traffic(world, 60)
        live, _ = redis_store.generations()
        events = [event for event in store.read_log(after=0) if event.account_id in accounts]

        def work(number: int) -> None:
            size = number + 2
            for start in range(0, len(events), size):
                apply.apply_events(live, events[start : start + size])

        assert in_threads(4, work) == [None] * 4
        assert_redis_equals_replay()

    @pytest.mark.parametrize("lost", ["v", "s", "p", "everything"])
    def test_a_damaged_entry_is_read_again_and_never_starts_from_zero(
        self, world: Sender, new_projector: Projectors, lost: str
    ) -> None:
        account = world.open(balance=10_000)
        projector = new_projector()
        settle(projector)
        live, _ = redis_store.generations()
        key = redis_store._account_key(live, "a", account)
        if lost == "everything":
            redis_store.client().delete(key)
        else:
            redis_store.client().hdel(key, lost)
        assert queries.account(account).account.balance == 10_000
        assert queries.account(account).source == "event-store"
        world(c.Deposit(account_id=account, amount=100, currency="EUR"))
        settle(projector)
        view = queries.account(account)
        assert (view.account.balance, view.source) == (10_100, "projection")
        rebuild.ensure(reason="the watch runs every five seconds")
        settle(projector)
        assert_redis_equals_replay()

    def test_flushall_is_never_a_wrong_balance_and_heals_by_itself(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        accounts = traffic(world, 30)
        projector = new_projector()
        settle(projector)
        expected = {item: queries.account(item).account for item in accounts}
        for key in redis_store.client().scan_iter(match=f"{django_settings.LEDGER_REDIS_PREFIX}*"):
            redis_store.client().delete(key)
        for item in accounts:
            view = queries.account(item)
            assert (view.account, view.source) == (expected[item], "event-store")
        world(c.Deposit(account_id=accounts[0], amount=100, currency="EUR"))
        settle(projector)
        assert_redis_equals_replay()

    def test_a_feed_ahead_of_a_restored_log_parks_its_account_only(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        """The topic has what a restored database lost: named, not crashed on."""
        lost, fine = world.open(balance=100), world.open(balance=100)
        settle(new_projector())
        [event] = store.read_stream(lost, after=1)
        ahead = msgspec.structs.replace(event, version=9, position=10**6)
        world(c.Deposit(account_id=fine, amount=1, currency="EUR"))
        live, _ = redis_store.generations()
        apply.apply_events(live, [ahead, store.read_stream(fine)[-1]])
        assert "restored to an earlier state" in redis_store.parked(live)[lost]
        assert queries.account(fine).account.balance == 101
        assert queries.account(lost).account.balance == 100

    def test_redis_that_went_back_in_time_is_noticed(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        """A restart from an older file: entries and progress are both old."""
        account = world.open(balance=100)
        projector = new_projector()
        settle(projector)
        client = redis_store.client()
        saved = {
            key: client.dump(key)
            for key in client.scan_iter(match=f"{django_settings.LEDGER_REDIS_PREFIX}*")
        }
        world(c.Deposit(account_id=account, amount=50, currency="EUR"))
        settle(projector)
        for key, value in saved.items():
            client.restore(key, 0, value, replace=True)
        other = world.open()
        settle(projector)
        assert queries.account(account).account.balance == 150
        assert queries.account(other).source == "projection"
        assert_redis_equals_replay()

    def test_an_event_newer_than_the_code_parks_its_account_only(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account, other = world.open(balance=100), world.open(balance=100)
        inject_event(account, "FeeCharged", '{"amount": 5}')
        world(c.Deposit(account_id=other, amount=1, currency="EUR"))
        settle(new_projector())
        assert list(queries.health().parked) == [account]
        assert queries.account(other).account.balance == 101
        with pytest.raises(StateIncompleteError):
            queries.account(account, at_least=store.last_position())


class TestParking:
    """One bad event stops its account alone, is shown, and is tried again when somebody asks."""

    def test_a_parked_account_is_never_shown_as_current(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account = world.open(balance=100)
        projector = new_projector()
        settle(projector)
        inject_event(account, "FeeCharged", '{"amount": 5}')
        settle(projector)
        assert list(queries.health().parked) == [account]
        view = queries.account(account)
        assert (view.account.version, view.lag_events, view.is_current) == (2, 1, False)

    def test_a_batch_with_doubles_and_holes_is_applied_whole(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account = world.open(balance=100)
        settle(new_projector())
        for _ in range(4):
            world(c.Deposit(account_id=account, amount=1, currency="EUR"))
        third, fourth, fifth, sixth = store.read_stream(account, after=2)
        live, _ = redis_store.generations()
        assert apply.apply_events(live, [fourth, third, third, sixth, sixth]) == frozenset()
        assert queries.account(account).account.version == 6
        assert fifth.version == 5
        settle(new_projector())
        assert_redis_equals_replay()

    def test_an_event_that_breaks_the_fold_parks_and_a_retry_mends(
        self, world: Sender, new_projector: Projectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad, good = world.open(balance=100), world.open(balance=100)
        projector = new_projector()
        settle(projector)
        fold = evolve

        def broken(account: Account, event: Any) -> Account:
            if event.delta == 13:
                raise ZeroDivisionError("a planted bug")
            return fold(account, event)

        monkeypatch.setattr(balances, "evolve", broken)
        world(c.Deposit(account_id=bad, amount=13, currency="EUR"))
        world(c.Deposit(account_id=good, amount=1, currency="EUR"))
        settle(projector)
        assert "ZeroDivisionError" in queries.health().parked[bad]
        assert queries.account(good).is_current
        assert not queries.account(bad).is_current
        rebuild.run_inline(reason="t", requested_by="t", progress=lambda *_: None)
        assert list(queries.health().parked) == [bad], "a rebuild goes on around it too"
        redis_store.want_retry(bad)
        retry(projector)
        assert list(queries.health().parked) == [bad], "still broken, still parked"
        monkeypatch.setattr(balances, "evolve", fold)
        redis_store.want_retry(bad)
        retry(projector)
        assert queries.health().parked == {}
        assert queries.account(bad).account.balance == 113
        assert queries.account(bad).is_current
        assert_redis_equals_replay()


def retry(projector: Projector) -> None:
    projector.look_due = 0.0
    projector.step()


def set_limit(size: int) -> None:
    """The largest batch that the topic takes."""
    admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ConfigResource.Type.TOPIC, django_settings.LEDGER_TOPIC, incremental_configs=[entry]
    )
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)


def topic_events() -> list[RecordedEvent]:
    """Everything on the topic, partition by partition."""
    topic = relay.topic_from_settings()
    reader = kafka.Reader(topic, {})
    ends, found = reader.ends(), list[bytes]()
    try:
        while len(found) < sum(ends.values()):
            found += [record.value for record in reader.read(1000, 1.0)]
    finally:
        reader.close()
    return [wire.from_message(value) for value in found if value.startswith(b"{")]


@pytest.mark.parametrize("event_bus", ["kafka"], indirect=True)
class TestParkingByTheRelay:
    def test_an_event_too_large_for_the_topic_stops_its_account_alone(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        big, small = world.open(balance=100), world.open(balance=100)
        projector = new_projector()
        settle(projector)
        set_limit(2000)
        world(c.Deposit(account_id=big, amount=1, currency="EUR", memo="a" * 480))
        memo = "\u20ac" * 499  # three bytes each: more than the topic takes
        world(c.Deposit(account_id=big, amount=2, currency="EUR", memo=memo))
        world(c.Deposit(account_id=big, amount=4, currency="EUR"))
        world(c.Deposit(account_id=small, amount=1, currency="EUR"))
        settle(projector)
        [row] = Parked.objects.filter(topic=django_settings.LEDGER_TOPIC)
        assert (str(row.account_id), "the topic takes 2000" in row.reason) == (big, True)
        sent = [(event.account_id, event.version) for event in topic_events()]
        assert (small, 3) in sent
        assert (big, 5) not in sent
        assert queries.account(big).account.balance == 107, "Redis reads it from the log instead"
        assert_redis_equals_replay()

        Parked.objects.update(is_retry_wanted=True)
        relay.run(budget_seconds=10, linger_seconds=0)
        [row] = Parked.objects.filter(topic=django_settings.LEDGER_TOPIC)
        assert row.is_retry_wanted is False, "tried, and still too large"

        set_limit(1_000_000)
        Parked.objects.update(is_retry_wanted=True)
        relay.run(budget_seconds=10, linger_seconds=0)
        assert not Parked.objects.filter(topic=django_settings.LEDGER_TOPIC).exists()
        assert versions_on_topic(big) == [1, 2, 3, 4, 5]
        settle(projector)

        # The topic's last record is an old event now: a new relay must not copy anything again.
        count = len(topic_events())
        world(c.Deposit(account_id=small, amount=1, currency="EUR"))
        Relay.objects.filter(topic=django_settings.LEDGER_TOPIC).update(position=0)
        settle(new_projector())
        assert len(topic_events()) == count + 1
        assert_redis_equals_replay()

    def test_a_strange_record_is_passed_over_and_its_account_read_from_the_log(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account = world.open(balance=100)
        settle(new_projector())
        topic = relay.topic_from_settings()
        producer = Producer({"bootstrap.servers": topic.servers})
        number = wire.partition_of(account, topic.partitions)
        for key, value in ((account, b"rubbish"), ("?", b"\xff\x00"), (None, b"")):
            producer.produce(topic.name, key=key, value=value, partition=number)
        producer.flush(10)
        world(c.Deposit(account_id=account, amount=1, currency="EUR"))
        settle(new_projector())
        assert queries.account(account).account.balance == 101
        assert versions_on_topic(account) == [1, 2, 3]
        assert_redis_equals_replay()


@pytest.mark.parametrize("event_bus", ["kafka"], indirect=True)
class TestLostTopic:
    def delete(self) -> None:
        admin = AdminClient({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]})
        admin.delete_topics([django_settings.LEDGER_TOPIC])[django_settings.LEDGER_TOPIC].result(10)

        def is_gone() -> bool:
            return django_settings.LEDGER_TOPIC not in admin.list_topics(timeout=10).topics

        wait_for(is_gone, "the topic to be gone")

    def test_is_filled_again_and_projections_stay_right(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        accounts = traffic(world, 20)
        projector = new_projector()
        settle(projector)
        self.delete()
        world(c.Deposit(account_id=accounts[0], amount=1, currency="EUR"))
        relay.run(budget_seconds=20, linger_seconds=0)
        relay.run(budget_seconds=20, linger_seconds=0)
        for account in accounts:
            assert versions_on_topic(account) == list(range(1, store.head_version(account) + 1))
        projector.close()
        settle(new_projector())
        assert_redis_equals_replay()

    def test_a_successor_that_was_written_into_unnoticed_is_made_whole(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        """A running relay went on into a topic that somebody made again: it lacks the beginning."""
        accounts = traffic(world, 20)
        projector = new_projector()
        settle(projector)
        self.delete()
        topic = relay.topic_from_settings()
        kafka.ensure_topic(topic)
        world(c.Deposit(account_id=accounts[0], amount=1, currency="EUR"))
        last = store.read_log(after=store.last_position() - 1)
        kafka.Publisher(topic).publish(last)
        Relay.objects.filter(topic=topic.name).update(position=last[0].position)
        assert len(topic_events()) == 1
        relay.run(budget_seconds=20, linger_seconds=0)
        assert sorted(event.position for event in topic_events()) == list(
            range(1, store.last_position() + 1)
        )
        assert versions_on_topic(accounts[0]) == list(range(1, store.head_version(accounts[0]) + 1))
        with suppress(BrokerUnavailableError):  # it reads another topic than it thinks
            projector.feed.identity_due = 0.0  # type: ignore[union-attr]
            projector.step()
        projector.close()
        settle(projector)
        assert_redis_equals_replay()

    def test_is_not_made_by_who_only_reads_it(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        with pytest.raises(BrokerUnavailableError, match="not there yet"):
            new_projector().step()
        assert relay.problem_with_topic() == ""
        relay.run(budget_seconds=20, linger_seconds=0)
        settle(new_projector())


def versions_on_topic(account: str) -> list[int]:
    return [event.version for event in topic_events() if event.account_id == account]


class TestRebuild:
    def test_is_equal_to_what_it_replaces(self, world: Sender, new_projector: Projectors) -> None:
        traffic(world, 50)
        projector = new_projector()
        settle(projector)
        old, _ = redis_store.generations()
        seen: list[tuple[int, int]] = []
        done = rebuild.run_inline(
            reason="test", requested_by="test", progress=lambda *step: seen.append(step)
        )
        new, building = redis_store.generations()
        assert (new, building) == (str(done.pk), "")
        assert (done.status, done.drift_total) == ("live", 0)
        assert seen[-1] == (5, 5)
        assert not list(redis_store.client().scan_iter(match=redis_store._key(old, "*")))
        projector.step()
        assert_redis_equals_replay()

    def test_goes_on_under_live_writes_without_a_failed_read(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        accounts = traffic(world, 30)
        settle(new_projector())
        stop = []

        def work(number: int) -> Any:
            if number == 0:
                try:
                    for _ in range(3):
                        rebuild.run_inline(reason="x", requested_by="x", progress=lambda *_: None)
                finally:
                    stop.append(True)
            elif number == 1:
                projector = new_projector()
                while not stop:
                    relay.run(budget_seconds=5, linger_seconds=0)
                    projector.step()
                projector.close()
            elif number == 2:
                for seed in itertools.count(100):
                    if stop:
                        return None
                    payer, payee = random.Random(seed).sample(accounts, 2)
                    world(
                        c.Transfer(
                            from_account_id=payer, to_account_id=payee, amount=1, currency="EUR"
                        )
                    )
            else:
                while not stop:
                    for item in accounts:
                        assert queries.account(item).account.balance > 0
            return None

        assert in_threads(4, work) == [None] * 4
        settle(new_projector())
        assert_redis_equals_replay()

    def test_reports_drift_with_the_first_event_at_which_they_part(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account = world.open(balance=10_000)
        for _ in range(5):
            world(c.Deposit(account_id=account, amount=100, currency="EUR"))
        traffic(world, 10)
        settle(new_projector())
        live, _ = redis_store.generations()
        [entry] = redis_store.load(live, [account])
        assert entry is not None
        # A fold that was wrong from version 5 on: state and activity carry the error along.
        client = redis_store.client()
        state = codec.decode_json(codec.encode(entry.account)) | {"balance": 10_501}
        client.hset(redis_store._account_key(live, "a", account), "s", codec.encode(state))
        lines = redis_store.activity(live, account, 100)
        key = redis_store._account_key(live, "t", account)
        for index, line in enumerate(lines):
            if line.version >= 5:
                changed = codec.decode_json(codec.encode(line)) | {"balance": line.balance + 1}
                client.lset(key, index, codec.encode(changed))
        done = rebuild.run_inline(reason="x", requested_by="x", progress=lambda *_: None)
        [drift] = done.drift
        assert drift == {
            "account_id": account, "version": 7, "projected_balance": 10_501, "true_balance": 10_500,
            "currency": "EUR", "first_version": 5,
        }  # fmt: skip
        assert queries.account(account).account.balance == 10_500

    def test_killed_half_way_serves_the_old_and_resumes(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        accounts = traffic(world, 20)
        settle(new_projector())
        old, _ = redis_store.generations()
        half = rebuild.start(reason="x", requested_by="x")
        for shard in range(half.shards_total // 2):
            rebuild.build_shard(half.pk, shard)
        assert redis_store.generations() == (old, str(half.pk))
        assert queries.account(accounts[0]).source == "projection"
        with pytest.raises(rebuild.AlreadyRunningError):
            rebuild.start(reason="y", requested_by="y")
        rebuild.ensure(reason="too early: it has a fresh heartbeat")
        assert redis_store.generations()[0] == old
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE projections_generation SET heartbeat_at = now() - interval '1 hour'"
            )
        rebuild.ensure(reason="stale")
        assert redis_store.generations() == (str(half.pk), "")
        settle(new_projector())
        assert_redis_equals_replay()

    def test_fires_no_side_effects(self, world: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
        traffic(world, 20)
        fired: list[Any] = []
        monkeypatch.setattr("celery.app.base.Celery.send_task", lambda *a, **_: fired.append(a))
        monkeypatch.setattr(kafka.Publisher, "publish", lambda *a: fired.append(a))
        before = store.last_position()
        rebuild.run_inline(reason="x", requested_by="x", progress=lambda *_: None)
        assert fired == []
        assert store.last_position() == before

    def test_of_other_code_is_noticed(self, world: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
        old, _ = redis_store.generations()
        rebuild.ensure(reason="nothing to do")
        assert redis_store.generations()[0] == old
        monkeypatch.setattr(rebuild, "SCHEMA", "other")
        rebuild.ensure(reason="x")
        assert redis_store.generations()[0] != old

    def test_two_releases_never_rebuild_against_each_other(
        self, world: Sender, new_projector: Projectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A rolling deploy: while projectors of the older code are at work, it keeps what it made."""
        traffic(world, 20)
        settle(new_projector())
        old, _ = redis_store.generations()
        half = rebuild.start(reason="by the older code", requested_by="x")
        older = rebuild.SCHEMA
        monkeypatch.setattr(rebuild, "SCHEMA", "newer")
        for shard in range(half.shards_total):
            rebuild.build_shard(half.pk, shard)
        half.refresh_from_db()
        assert half.shards_done == [], "nothing of it may be made by other code"
        rebuild.ensure(reason="the older code is at work")
        assert redis_store.generations() == (old, str(half.pk))

        redis_store.client().delete(redis_store._key("code", older))  # its time has run out
        rebuild.ensure(reason="it is gone")
        half.refresh_from_db()
        assert half.status == "failed"
        live, building = redis_store.generations()
        assert (live not in (old, str(half.pk)), building) == (True, "")
        assert redis_store.parked(live) == {}
        settle(new_projector())
        assert_redis_equals_replay()


class TestQueries:
    def test_never_answer_from_before_what_the_caller_has_seen(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        """The projector stands still."""
        account = world.open(balance=100)
        settle(new_projector())
        done = world(c.Deposit(account_id=account, amount=50, currency="EUR"))
        assert done.last_position is not None
        stale = queries.account(account)
        assert (stale.account.balance, stale.source, stale.lag_events) == (100, "projection", 1)
        assert not stale.is_current
        fresh = queries.account(account, at_least=done.last_position)
        assert (fresh.account.balance, fresh.source) == (150, "event-store")
        new = world.open()
        assert queries.account(new).source == "event-store"
        settle(new_projector())
        now = queries.account(account, at_least=done.last_position)
        assert (now.account.balance, now.source, now.is_current) == (150, "projection", True)

    @pytest.mark.memory
    def test_what_a_process_keeps_is_never_old_for_long_nor_before_at_least(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        """Reads go on in four threads while the account is written and projected."""
        account = world.open(balance=100)
        projector = new_projector()
        settle(projector)
        stop = threading.Event()

        def read() -> None:
            seen = 0
            while not stop.is_set():
                version = queries.account(account).account.version
                assert version >= seen
                seen = version

        def write() -> None:
            try:
                for _ in range(40):
                    done = world(c.Deposit(account_id=account, amount=1, currency="EUR"))
                    assert done.last_position is not None
                    seen = queries.account(account, at_least=done.last_position)
                    assert seen.account == done.accounts[0]
                    projector.step()
                settle(projector)
                time.sleep(queries.BEARINGS_MAX_SECONDS)  # the longest that anything may be kept
                view = queries.account(account)
                assert (view.account.balance, view.source, view.lag_events) == (
                    140,
                    "projection",
                    0,
                )
            finally:
                stop.set()

        assert in_threads(4, lambda number: read() if number else write()) == [None] * 4

    def test_an_untouched_account_is_current_at_any_later_position(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        account = world.open(balance=100)
        world.open(balance=5)
        settle(new_projector())
        view = queries.account(account, at_least=store.last_position())
        assert (view.source, view.is_current) == ("projection", True)

    def test_without_redis_the_event_store_answers(
        self, world: Sender, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        account = world.open(balance=100)

        def away() -> Any:
            raise redis_store.UNAVAILABLE("connection refused")

        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "client", away)
            view = queries.account(account)
            assert (view.account.balance, view.source) == (100, "event-store")
            assert [line.balance for line in queries.activity(account)] == [100, 0]
            assert queries.health().redis_error
            assert world(c.Withdraw(account_id=account, amount=100, currency="EUR")).error is None

    def test_activity_is_the_same_from_both_sources(
        self, world: Sender, new_projector: Projectors
    ) -> None:
        [account, *_] = traffic(world, 60)
        settle(new_projector())
        events = store.read_stream(account)
        assert queries.activity(account, 5) == queries.activity_of(events[-5:])

    def test_totals_balance(self, world: Sender, new_projector: Projectors) -> None:
        traffic(world, 40)
        settle(new_projector())
        euros = queries.totals()["EUR"]
        outside = sum(value for name, value in euros.items() if name.startswith("outside"))
        assert euros["balances"] + outside == 0
        assert euros["accounts"] == 5
        assert euros["events"] == store.last_position()


class TestFeeds:
    def test_progress_is_never_ahead_of_what_was_handed_out(
        self, world: Sender, event_bus: str
    ) -> None:
        """The watermark may only speak of events that this feed has given."""
        relay.run(budget_seconds=30, linger_seconds=0)
        rebuilt = feeds.open_feed({}, {}, floor=0)
        given: set[int] = set()
        done: dict[str, int] = {}
        complete = 0
        for seed in range(6):
            traffic(world, 8, seed=seed)
            relay.run(budget_seconds=30, linger_seconds=0)
            for _ in range(30):
                batch = rebuilt.poll()
                given |= {event.position for event in batch.events}
                done |= batch.progress
                complete = min(done.get(name, 0) for name in feeds.partitions())
                assert given >= set(range(1, complete + 1))
        assert given == set(range(1, store.last_position() + 1))
        assert complete == store.last_position()
        rebuilt.close()


def test_head_and_projection_and_history_agree(world: Sender, new_projector: Projectors) -> None:
    accounts = traffic(world, 60)
    settle(new_projector())
    for item in accounts:
        head = history.current(item)[0]
        assert queries.account(item).account == head
        assert history.state_at(item, history.Moment()).account == head


class TestRestoredToAnEarlierState:
    """C151: the database goes back, Kafka, Redis and the witness do not."""

    @pytest.fixture
    def restored(
        self,
        world: Sender,
        new_projector: Projectors,
        own_log: str,
        settings: Any,
        tmp_path: Path,
    ) -> Iterator[list[str]]:
        """A log that went from a backup at some position on, came back to it, and went another way."""
        key = tmp_path / "seal.key"
        key.write_text(notes.Signer.generate("example.org/ledger"))
        settings.LEDGER_SEAL_KEYS = [str(key)]
        settings.LEDGER_WITNESS = str(tmp_path / "witness")
        accounts = traffic(world, 40)
        settle(new_projector())
        self.seal()
        connection.close()
        backup = f"{own_log}_backup"
        with superuser() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                [own_log],
            )
            admin.execute(f"CREATE DATABASE {backup} TEMPLATE {own_log} OWNER ledger_owner")
        again = Sender()
        for account in accounts:
            for _ in range(8):
                again(c.Deposit(account_id=account, amount=77, currency="EUR"))
        lost = traffic(again, 5, seed=2)
        settle(new_projector())
        self.seal()
        connection.close()
        connection.settings_dict["NAME"] = backup
        yield [*accounts, *lost]
        connection.close()
        connection.settings_dict["NAME"] = own_log
        with superuser() as admin:
            admin.execute(f"DROP DATABASE {backup} WITH (FORCE)")

    def seal(self) -> None:
        for log in store.LOGS:
            seals.seal(log)
        seals.witness()

    def go_on(self, accounts: list[str], rounds: int) -> None:
        """Other events than those that were lost, on a bus of this database."""
        send = Sender()
        for number in range(rounds):
            send(c.Deposit(account_id=accounts[number % 5], amount=1_000, currency="EUR"))

    @pytest.mark.parametrize("rounds", [0, 30, 150])
    def test_is_recognised_everywhere_and_no_balance_is_a_mixture(
        self,
        restored: list[str],
        new_projector: Projectors,
        settings: Any,
        rounds: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Behind what is outside, and when it has grown past that with other events."""
        self.go_on(restored, rounds)
        if settings.LEDGER_BUS == "kafka":
            with pytest.raises(relay.LogBehindTopicError, match="restored to an earlier state"):
                relay.run(budget_seconds=5, linger_seconds=0)
        with pytest.raises(OtherLogError, match="restored to an earlier state"):
            new_projector().step()
        if rounds:
            with pytest.raises(seals.SealRefusedError, match=r"restored|no longer have the root"):
                seals.seal()
        for account in restored[:5]:
            view = queries.account(account)
            assert view.account == history.fold_to(account, store.head_version(account))
            assert view.source == "event-store"
        report = checks.check_accounts()
        found = {item.row for item in report.findings if item.column == "position"}
        assert {"Redis"} | ({"Kafka"} if settings.LEDGER_BUS == "kafka" else set()) <= found
        outside = seals.read_witness(seals.witness_file(Path(settings.LEDGER_WITNESS)))
        log = checks.check_log(witness={"events": outside})
        assert any(item.row.startswith("witnessed seal") for item in log.findings)

    def test_goes_on_in_another_epoch(
        self, restored: list[str], new_projector: Projectors, settings: Any
    ) -> None:
        """What docs/operations.md says to do: one number raised, everything outside begins anew."""
        self.go_on(restored, 30)
        settings.LEDGER_EPOCH = 2
        settings.LEDGER_TOPIC += ".2"
        settings.LEDGER_REDIS_PREFIX += ".2"
        try:
            rebuild.ensure(reason="test")
            settle(new_projector())
            self.go_on(restored, 20)
            settle(new_projector())
            assert_redis_equals_replay()
            if settings.LEDGER_BUS == "kafka":
                assert_topic_is_the_log()
            self.seal()
            sealed = seals.newest()
            assert sealed is not None
            assert sealed.note.startswith("example.org/ledger/epoch-2\n")
            outside = seals.read_witness(seals.witness_file(Path(settings.LEDGER_WITNESS)))
            assert [item.size for item in outside][-1] == sealed.size
            report = checks.check_log(witness={"events": outside})
            assert report.findings == []
            assert checks.check_accounts().findings == []
            public = verify.read_key(seals.public_keys()[0])
            assert verify.read_note(sealed.note, public, "the seal")[0] == sealed.size
        finally:
            for name in redis_store.client().scan_iter(f"{settings.LEDGER_REDIS_PREFIX}*"):
                redis_store.client().delete(name)
