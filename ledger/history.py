"""Time travel: the state of an account at a version, a position or a moment, and what changed.

`as_of` is inclusive: an event recorded exactly then counts. It may not lie in the future, and for a
moment so recent that an append may be in flight the answer waits for that append, so that it is
final. `effective_as_of` looks along the other axis: of what was recorded by the boundary, only what
counted by then.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledger import codec, store
from ledger.codec import STATE_SCHEMA, RecordedEvent
from ledger.domain.money import format_amount
from ledger.domain.state import Account, evolve
from ledger.errors import InvalidInputError, NotFoundError

log = logging.getLogger(__name__)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked: at most one of version, position and as_of; none means now."""

    version: int | None = None
    position: int | None = None
    as_of: datetime | None = None
    effective_as_of: datetime | None = None


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """An account's state as kept outside the event store; version 0 where there is none.

    `is_behind` says that it lacks events which its keeper claims to hold.
    """

    version: int
    position: int
    state: str
    is_behind: bool


COPIES: dict[str, Callable[[Sequence[str]], Mapping[str, Copy]]] = {}
"""Who else keeps states: a name, and how to read those of some accounts. The verification compares
every one with a replay; accounts that are left out are not compared."""


OUTSIDE: dict[str, Callable[[], str]] = {}
"""What keeps events outside the database: a name, and how to ask why they are not those of the log."""


def forget_copies() -> None:
    """For a process that looks at the database alone."""
    COPIES.clear()
    OUTSIDE.clear()


class StateAt(msgspec.Struct, frozen=True, kw_only=True):
    """The account at a moment and the boundary that answers: the last event that counts."""

    account: Account
    moment: Moment
    version: int
    position: int
    recorded_at: datetime | None
    log_position: int


def check_moment(moment: Moment) -> tuple[int, int]:
    """Check that `moment` can be answered for good.

    Returns the position that bounds it, and the log's end.

    Raises:
        InvalidInputError: it lies in the future, or beyond the log's end.
    """
    clock, last = store.settle()
    for name, value in (("as_of", moment.as_of), ("effective_as_of", moment.effective_as_of)):
        if value is not None and value >= clock:
            raise InvalidInputError(
                f"{codec.format_time(value)} lies in the future: it is now "
                f"{codec.format_time(clock)}",
                field=name,
            )
    if moment.position is not None and moment.position > last:
        raise InvalidInputError(f"the log ends at position {last}", field="position")
    if moment.as_of is not None:
        return store.position_at(moment.as_of), last
    return (last if moment.position is None else moment.position), last


def _tail(
    account_id: str,
    after: int,
    *,
    position: int,
    version: int | None,
    effective_until: datetime | None = None,
) -> Iterator[store.Foldable]:
    """Events after version `after` up to `position` and `version`, page by page.

    The first page is short: with a snapshot every hundred versions it holds the whole tail.
    """
    limit = SNAPSHOT_EVERY
    while True:
        page = store.read_foldable(
            account_id,
            after=after,
            until=version,
            limit=limit,
            effective_until=effective_until,
        )
        for found in page:
            if found.position > position:
                return
            yield found
        if len(page) < limit:
            return
        after = page[-1].version
        limit = store.PAGE


SNAPSHOT_EVERY = 100
"""Versions between snapshots: 0.7 ms to any past state (FINDINGS)."""


def _start(account_id: str, *, position: int | None, version: int | None) -> Account:
    """The nearest trusted snapshot at or before both bounds, or the empty account."""
    row = store.snapshot_before(
        account_id, state_schema=STATE_SCHEMA, version=version, position=position
    )
    if row is not None:
        try:
            account = codec.decode_account(row.state)
        except msgspec.MsgspecError:
            log.warning("snapshot %s of %s cannot be read", row.version, account_id)
        else:
            if account.version == row.version and account.account_id == account_id:
                return account
            log.warning("snapshot %s of %s is of something else", row.version, account_id)
    return Account(account_id=account_id)


def state_at(account_id: str, moment: Moment) -> StateAt:
    """The state of an account at `moment`.

    Raises:
        NotFoundError: the account had no event by then.
        InvalidInputError: the moment lies in the future, or beyond the account's last version.
        StateIncompleteError: an event is newer than this code.
    """
    position, last = check_moment(moment)
    if moment.effective_as_of is None:
        account = _start(account_id, position=position, version=moment.version)
    else:  # A later snapshot has folded in what did not count yet.
        late = store.first_effective_after(account_id, moment.effective_as_of)
        bounds = [bound for bound in (moment.version, late and late - 1) if bound is not None]
        account = _start(account_id, position=position, version=min(bounds, default=None))
    version, seen = account.version, account.version > 0
    for found in _tail(
        account_id,
        version,
        position=position,
        version=moment.version,
        effective_until=moment.effective_as_of,
    ):
        version = found.version
        if found.counts:
            account = evolve(account, found.event)
            seen = True
    boundary = store.read_version(account_id, version) if version else None
    if boundary is None or (moment.effective_as_of is not None and not seen):
        raise NotFoundError(f"account {account_id} does not exist at this moment")
    if moment.version is not None and boundary.version != moment.version:
        raise InvalidInputError(
            f"account {account_id} ends at version {boundary.version}", field="version"
        )
    return StateAt(
        account=account,
        moment=moment,
        version=boundary.version,
        position=boundary.position,
        recorded_at=boundary.recorded_at,
        log_position=last,
    )


def current(account_id: str) -> tuple[Account, int]:
    """The newest state and its position: from the head, or from events if the head is old.

    Raises:
        NotFoundError: the account does not exist.
    """
    found = store.read_head(account_id)
    if found is None:
        raise NotFoundError(f"account {account_id} does not exist")
    head, position = found
    return trusted(head), position


def trusted(head: store.Head) -> Account:
    """The account of a head: as stored when today's logic made it, otherwise folded anew."""
    if head.state_schema == STATE_SCHEMA:
        try:
            account = codec.decode_account(head.state)
        except msgspec.MsgspecError:
            log.warning("the head of %s cannot be read; folding its events", head.account_id)
        else:
            if account.version == head.version:
                return account
    return fold_to(head.account_id, head.version)


def fold_to(account_id: str, version: int) -> Account:
    """The account at `version`, from the nearest trusted snapshot and the events after it."""
    account = _start(account_id, position=None, version=version)
    for found in _tail(account_id, account.version, position=2**62, version=version):
        account = evolve(account, found.event)
    return account


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What parts two moments: changed fields as (name, before, after), and the events between."""

    before: StateAt
    after: StateAt
    changes: list[tuple[str, object, object]]
    events: list[RecordedEvent]
    events_total: int


DIFFERENCE_EVENTS_MAX = 500
"""Events listed in a difference; the total is always exact."""


def difference(account_id: str, earlier: Moment, later: Moment) -> Difference:
    """The difference of an account between two moments, given in either order."""
    before, after = state_at(account_id, earlier), state_at(account_id, later)
    if before.version > after.version:
        before, after = after, before
    old, new = msgspec.to_builtins(before.account), msgspec.to_builtins(after.account)
    return Difference(
        before=before,
        after=after,
        changes=[(name, old[name], new[name]) for name in new if old[name] != new[name]],
        events=store.read_stream(
            account_id, after=before.version, until=after.version, limit=DIFFERENCE_EVENTS_MAX
        ),
        events_total=after.version - before.version,
    )


def trial_balance(position: int) -> list[dict[str, Any]]:
    """Per currency: the accounts' total, each outside counterpart, and their sum."""
    totals: dict[str, dict[str, int]] = {}
    for currency, _, outside, _, minor in store.balances_at(position):
        column = totals.setdefault(currency, {"accounts": 0})
        column["accounts"] += minor
        if outside:
            column[outside] = column.get(outside, 0) - minor
    return [
        {
            "currency": currency,
            "accounts": format_amount(column["accounts"], currency),
            "outside": {
                name: format_amount(minor, currency)
                for name, minor in sorted(column.items())
                if name != "accounts"
            },
            "sum": format_amount(sum(column.values()), currency),
        }
        for currency, column in sorted(totals.items())
    ]
