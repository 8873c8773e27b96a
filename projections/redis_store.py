"""The only file that knows Redis: keys, guarded writes, generations, progress.

Every key of an account carries the hash tag of its bucket, so an account, its activity, its summary
and its bucket's totals change in one atomic script, on a cluster too. A write is applied only if
the stored version is the one it was computed from: redelivery, zombies and races are harmless.

    {prefix}:live              id of the generation that readers see
    {prefix}:building          id of the one being built, if any
    {prefix}:from              hash: generation -> log position that its build covers
    {prefix}:progress          hash: partition -> log position projected without a gap
    {prefix}:offsets           hash: partition -> next offset of the feed
    {prefix}:topic             Kafka's id of the topic that these offsets are of
    {prefix}:tip               position and leaf hash of an event applied lately: whose log it is
    {prefix}:{gen}:parked      hash: account -> why it cannot be projected
    {prefix}:code:SCHEMA       there while a projector of that code is at work
    {prefix}:retry             set: parked accounts that somebody wants tried again
    {prefix}:{gen}:suspect     set when an account was lost from it, so totals may be wrong
    {prefix}:{gen}:{bNN}:a:ID  hash: v version, p position, s state
    {prefix}:{gen}:{bNN}:t:ID  list: activity, newest first
    {prefix}:{gen}:{bNN}:s:ID  hash: summary
    {prefix}:{gen}:{bNN}:sum   hash: totals of the bucket
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from django.conf import settings
from django.core.cache import caches
from django_redis import get_redis_connection
from django_redis.exceptions import ConnectionInterrupted
from redis.exceptions import RedisError

from ledger import codec, store
from ledger.activity import ActivityLine
from ledger.codec import RecordedEvent
from ledger.domain.state import Account
from ledger.history import Copy
from ledger.service import relay_awake_key
from projections.balances import ACTIVITY_KEPT, Change

log = logging.getLogger(__name__)

BUCKETS = 64
UNAVAILABLE = RedisError
"""What every function here raises when Redis does not answer."""

_APPLY = """
local stored = tonumber(redis.call('HGET', KEYS[1], 'v') or '0')
if stored ~= tonumber(ARGV[1]) then return stored end
if ARGV[2] == '0' then redis.call('DEL', KEYS[2], KEYS[3]) end
redis.call('HSET', KEYS[1], 'v', ARGV[3], 'p', ARGV[4], 's', ARGV[5])
local at = 7
local count = tonumber(ARGV[6])
for i = 1, count do
  redis.call('LPUSH', KEYS[2], ARGV[at]); at = at + 1
end
redis.call('LTRIM', KEYS[2], 0, KEPT - 1)
for key = 3, 4 do
  count = tonumber(ARGV[at]); at = at + 1
  for i = 1, count do
    redis.call('HINCRBY', KEYS[key], ARGV[at], ARGV[at + 1]); at = at + 2
  end
end
return -1
""".replace("KEPT", str(ACTIVITY_KEPT))

_activity_decoder = msgspec.json.Decoder(ActivityLine)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A projected account and the position of its last event."""

    account: Account
    position: int


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored for an account: its version, and the entry if it can be trusted."""

    version: int
    entry: Entry | None


def client() -> Any:
    """The Redis connection pool of this process."""
    return get_redis_connection("redis")


@cache
def _script() -> Any:
    return client().register_script(_APPLY)


def _key(*parts: object) -> str:
    return ":".join([settings.LEDGER_REDIS_PREFIX, *map(str, parts)])


def bucket_of(account_id: str) -> int:
    """The bucket of an account: its id's last byte, random in every kind of UUID here."""
    return int(account_id[-2:], 16) % BUCKETS


def _account_key(generation: str, kind: str, account_id: str) -> str:
    return _key(generation, f"{{b{bucket_of(account_id):02d}}}", kind, account_id)


def _totals_key(generation: str, bucket: int) -> str:
    return _key(generation, f"{{b{bucket:02d}}}", "sum")


def _text(value: bytes | None) -> str:
    return value.decode() if value is not None else ""


# -- generations and progress --------------------------------------------------------------------


def generations() -> tuple[str, str]:
    """The live and the building generation; empty where there is none."""
    live, building = client().mget(_key("live"), _key("building"))
    return _text(live), _text(building)


def start_building(generation: str) -> None:
    """From now on projectors write to `generation` too."""
    client().set(_key("building"), generation)


def cover(generation: str, position: int) -> None:
    """The build of `generation` covers the log up to `position`."""
    client().hset(_key("from"), generation, position)


def go_live(generation: str) -> str:
    """Swap readers over to `generation` at once; returns the one that they saw before."""
    pipeline = client().pipeline(transaction=True)
    pipeline.get(_key("live"))
    pipeline.set(_key("live"), generation)
    pipeline.delete(_key("building"), _key(generation, "suspect"))
    before: bytes | None = pipeline.execute()[0]
    return _text(before)


def give_up(building: str) -> None:
    """Nobody writes to `building` any more; what it has is deleted."""
    client().delete(_key("building"))
    drop(building)


def drop(generation: str) -> int:
    """Delete every key of a generation; returns how many."""
    dropped = 0
    batch: list[Any] = []
    for key in client().scan_iter(match=_key(generation, "*"), count=1000):
        batch.append(key)
        if len(batch) >= 1000:
            dropped += client().unlink(*batch)
            batch = []
    if batch:
        dropped += client().unlink(*batch)
    client().hdel(_key("from"), generation)
    return dropped


def progress() -> tuple[dict[str, int], dict[str, int]]:
    """How far the feed was projected, and its offsets, by partition."""
    pipeline = client().pipeline(transaction=False)
    pipeline.hgetall(_key("progress"))
    pipeline.hgetall(_key("offsets"))
    done, offsets = pipeline.execute()
    return (
        {_text(name): int(value) for name, value in done.items()},
        {_text(name): int(value) for name, value in offsets.items()},
    )


def topic_of_offsets() -> str:
    """Kafka's id of the topic that the offsets are of."""
    return _text(client().get(_key("topic")))


def keep_topic_of_offsets(identity: str) -> None:
    """From now on offsets are of this topic; those of another one are forgotten."""
    pipeline = client().pipeline(transaction=True)
    pipeline.delete(_key("offsets"))
    pipeline.set(_key("topic"), identity)
    pipeline.execute()


def save_progress(
    done: Mapping[str, int],
    offsets: Mapping[str, int],
    last: RecordedEvent | None = None,
) -> None:
    """Note how far the feed was projected, and its last event; call after the writes it speaks of."""
    pipeline = client().pipeline(transaction=True)
    if done:
        pipeline.hset(_key("progress"), mapping=done)
    if offsets:
        pipeline.hset(_key("offsets"), mapping=offsets)
    if last is not None:
        pipeline.set(_key("tip"), f"{last.position} {last.leaf_hash.hex()}")
    pipeline.execute()


def problem_with_log() -> str:
    """Why what is projected here is not of this log; empty if it is."""
    tip = client().get(_key("tip"))
    if tip is None:
        return ""
    position, leaf = _text(tip).split(" ")
    problem = store.unlike_log({int(position): bytes.fromhex(leaf)})
    return problem and (
        f"Redis {problem}: the database was restored to an earlier state; "
        "see docs/operations.md, restore"
    )


def standing(generation: str, partitions: Sequence[str]) -> tuple[int, frozenset[str]]:
    """The position up to which `generation` holds everything, and the accounts parked in it.

    Those are read last: whoever parks an account does so before progress passes it.
    """
    pipeline = client().pipeline(transaction=False)
    pipeline.hget(_key("from"), generation)
    pipeline.hmget(_key("progress"), list(partitions))
    pipeline.hkeys(_key(generation, "parked"))
    covered, done, parked_ids = pipeline.execute()
    slowest = min(int(value or 0) for value in done)
    return max(int(covered or 0), slowest), frozenset(map(_text, parked_ids))


def watermark(generation: str, partitions: Sequence[str]) -> int:
    """The position up to which `generation` holds everything, parked accounts aside."""
    return standing(generation, partitions)[0]


def say_relay_awake(seconds: int) -> None:
    """Tell appenders for so long that a relay is at work; 0 ends it. Without Redis they wake it."""
    try:
        caches["redis"].set(relay_awake_key(), 1, timeout=seconds)  # a timeout of 0 deletes
    except ConnectionInterrupted as error:
        log.debug("Redis is away: %s", error)


def seal_published(log_name: str) -> int:
    """The size of a log's last seal known to be on the topic; 0 if that was forgotten."""
    try:
        return int(client().hget(_key("sealed", settings.LEDGER_SEALS_TOPIC), log_name) or 0)
    except RedisError:
        return 0


def say_seal_published(log_name: str, size: int) -> None:
    """Note that the seal of `size` is on its topic; without Redis it goes there again."""
    try:
        client().hset(_key("sealed", settings.LEDGER_SEALS_TOPIC), log_name, size)
    except RedisError as error:
        log.debug("Redis is away: %s", error)


CODE_SECONDS = 15


def say_code(schema: str) -> None:
    """A projector of this code is at work; to be said again every few seconds."""
    client().set(_key("code", schema), 1, ex=CODE_SECONDS)


def is_code_at_work(schema: str) -> bool:
    """Whether a projector of that code was at work within CODE_SECONDS."""
    return bool(client().exists(_key("code", schema)))


# -- accounts ------------------------------------------------------------------------------------


def _entry(fields: Sequence[bytes | None]) -> Entry | None:
    version, position, state = fields
    if version is None or position is None or state is None:
        return None
    try:
        account = codec.decode_account(state)
    except msgspec.MsgspecError:
        return None
    if account.version != int(version):
        return None
    return Entry(account=account, position=int(position))


def read(generation: str, account_id: str) -> Entry | None:
    """The entry of an account, if there is one that can be trusted."""
    return _entry(client().hmget(_account_key(generation, "a", account_id), "v", "p", "s"))


def load_stored(generation: str, account_ids: Sequence[str]) -> list[Stored]:
    """What is stored for accounts, in order; version 0 where there is nothing."""
    return [
        Stored(version=int(fields[0] or 0), entry=_entry(fields))
        for fields in _read_fields(generation, account_ids)
    ]


def _read_fields(generation: str, account_ids: Sequence[str]) -> list[list[bytes | None]]:
    pipeline = client().pipeline(transaction=False)
    for account_id in account_ids:
        pipeline.hmget(_account_key(generation, "a", account_id), "v", "p", "s")
    found: list[list[bytes | None]] = pipeline.execute()
    return found


def load(generation: str, account_ids: Sequence[str]) -> list[Entry | None]:
    """The entries of accounts, in order; None where there is none that can be trusted."""
    return [stored.entry for stored in load_stored(generation, account_ids)]


def copies(account_ids: Sequence[str], partitions: Sequence[str]) -> dict[str, Copy]:
    """What the live generation holds of accounts, for a comparison with the events.

    An account that Redis lacks, or has at an older version, counts as behind if its head lies at or
    before what the generation is complete up to. Empty without a live generation, and when another
    one went live meanwhile.
    """
    live, _ = generations()
    if not live:
        return {}
    complete = watermark(live, partitions)
    excused = parked(live)
    found = _read_fields(live, account_ids)
    if generations()[0] != live:
        return {}
    heads = store.read_heads(account_ids)
    return {
        account_id: Copy(
            version=int(version or 0),
            position=int(position or 0),
            state=_text(state),
            is_behind=int(version or 0) < heads[account_id][0].version
            and heads[account_id][1] <= complete,
        )
        for account_id, (version, position, state) in zip(account_ids, found, strict=True)
        if account_id not in excused and account_id in heads
    }


def suspect(generation: str) -> None:
    """Note that an account was lost from a generation: its totals may be wrong."""
    client().set(_key(generation, "suspect"), 1)


def is_suspect(generation: str) -> bool:
    """Whether an account was lost from a generation."""
    return bool(client().exists(_key(generation, "suspect")))


def apply(generation: str, changes: Iterable[tuple[Change, int]]) -> list[int]:
    """Write changes, each guarded by the version that was stored when it was computed.

    A change from version 0 on replaces what is stored, activity and summary included. Returns per
    change -1 when it was applied, else the version that is stored.
    """
    pipeline = client().pipeline(transaction=False)
    for change, stored_version in changes:
        account_id = change.account.account_id
        arguments: list[Any] = [
            stored_version,
            change.before_version,
            change.account.version,
            change.position,
            codec.encode(change.account),
            len(change.activity),
            *(codec.encode(line) for line in change.activity),
        ]
        for counts in (change.summary, change.totals):
            arguments.append(len(counts))
            for name, amount in counts.items():
                arguments += [name, amount]
        _script()(
            keys=[
                _account_key(generation, "a", account_id),
                _account_key(generation, "t", account_id),
                _account_key(generation, "s", account_id),
                _totals_key(generation, bucket_of(account_id)),
            ],
            args=arguments,
            client=pipeline,
        )
    return [int(answer) for answer in pipeline.execute()]


def activity(generation: str, account_id: str, limit: int) -> list[ActivityLine]:
    """The newest activity of an account, newest first; empty if other code wrote it."""
    lines = client().lrange(_account_key(generation, "t", account_id), 0, limit - 1)
    try:
        return [_activity_decoder.decode(line) for line in lines]
    except msgspec.MsgspecError:
        return []


def summary(generation: str, account_id: str) -> dict[str, int]:
    """The summary counts of an account; see `balances.project` for the names."""
    counts = client().hgetall(_account_key(generation, "s", account_id))
    return {_text(name): int(value) for name, value in counts.items()}


def totals(generation: str) -> dict[str, int]:
    """The totals of all buckets added up; see `balances.project` for the names."""
    pipeline = client().pipeline(transaction=False)
    for bucket in range(BUCKETS):
        pipeline.hgetall(_totals_key(generation, bucket))
    added: dict[str, int] = {}
    for counts in pipeline.execute():
        for name, value in counts.items():
            added[_text(name)] = added.get(_text(name), 0) + int(value)
    return added


# -- parked accounts -----------------------------------------------------------------------------


def park(generation: str, account_id: str, reason: str) -> None:
    """Mark an account that cannot be projected."""
    client().hset(_key(generation, "parked"), account_id, reason)


def unpark(generation: str, account_id: str) -> None:
    """The account is projected again."""
    client().hdel(_key(generation, "parked"), account_id)


def want_retry(account_id: str) -> None:
    """Ask the projector to try a parked account again."""
    client().sadd(_key("retry"), account_id)


def take_retries() -> list[str]:
    """The accounts that somebody wants tried again; asked for once."""
    return [_text(item) for item in client().spop(_key("retry"), 100)]


def parked(generation: str) -> dict[str, str]:
    """Parked accounts and why."""
    found = client().hgetall(_key(generation, "parked"))
    return {_text(account_id): _text(reason) for account_id, reason in found.items()}
