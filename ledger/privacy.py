"""Personal data: sealed under a key per account before it is decided on, and erased with that key.

What people write about people (the holder's name, memos, reasons) goes into events, heads, snapshots,
records of commands, Kafka and Redis only as ``~1.ACCOUNT.BASE64``: AES-256-GCM with the account's own
key, whose place is one row of `SubjectKey`, itself wrapped by a key from the environment
(LEDGER_PRIVACY_KEYS). Hashes and proofs are over the sealed text, so they hold after the key is gone.
Pages and API show the text to those who may read the account; after `HolderErased` nobody can.

Without LEDGER_PRIVACY_KEYS text is stored as it is; what was stored so before stays readable.
The holder's name is found by keyed digests of its beginnings (`NameToken`), erased with the key.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from ledger.domain.events import Event
from ledger.errors import ConflictError
from ledger.models import Account, NameToken, SubjectKey

PERSONAL = ("holder", "memo", "reason")
"""Fields of commands and events that people fill with words."""
MARK = "~1."
ERASED = "(erased)"
UNREADABLE = "(sealed)"
NONCE_BYTES = 12
PREFIX_MAX = 24
KEY_SECONDS = 1.0
"""So long a process may still read with a key that another has destroyed."""
KEPT_MAX = 20_000
E = TypeVar("E", bound=Event)


def is_on() -> bool:
    """Whether what is written is sealed."""
    return bool(settings.LEDGER_PRIVACY_KEYS)


# -- keys ----------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _wrapping(text: str) -> tuple[bytes, AESGCM, bytes]:
    """Id, cipher and bytes of a key from the environment."""
    key = base64.b64decode(text, validate=True)
    return hashlib.sha256(b"ledger-kek" + key).digest()[:4], AESGCM(key), key


def check_keys(texts: Iterable[str]) -> str:
    """What is wrong with the keys of the environment; empty if nothing."""
    try:
        for text in texts:
            if len(_wrapping(text)[2]) != 32:
                return "LEDGER_PRIVACY_KEYS must be base64 of 32 bytes each"
    except (binascii.Error, ValueError):
        return "LEDGER_PRIVACY_KEYS must be base64 of 32 bytes each"
    return ""


def wrap(account_id: str, key: bytes) -> bytes:
    """A key as it is stored: id of the wrapping key, nonce, sealed key."""
    identity, cipher, _ = _wrapping(settings.LEDGER_PRIVACY_KEYS[0])
    nonce = os.urandom(NONCE_BYTES)
    return identity + nonce + cipher.encrypt(nonce, key, account_id.encode())


def _unwrap(account_id: str, wrapped: bytes) -> bytes | None:
    for text in settings.LEDGER_PRIVACY_KEYS:
        identity, cipher, _ = _wrapping(text)
        if wrapped[:4] == identity:
            nonce, sealed = wrapped[4 : 4 + NONCE_BYTES], wrapped[4 + NONCE_BYTES :]
            return cipher.decrypt(nonce, sealed, account_id.encode())
    return None


class _Keys:
    """Keys that were read within the last second; None for an account that has none."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, AESGCM | None]] = {}

    def of(self, account_ids: Iterable[str]) -> dict[str, AESGCM]:
        """The keys of these accounts, as far as there are any; one query at most."""
        now, wanted = time.monotonic(), list(dict.fromkeys(account_ids))
        missing = [
            item for item in wanted if now - self._known.get(item, (-1e9, None))[0] > KEY_SECONDS
        ]
        if missing:
            if len(self._known) > KEPT_MAX:
                self._known.clear()
            rows = SubjectKey.objects.filter(account_id__in=missing)
            found = {str(row.account_id): bytes(row.wrapped) for row in rows}
            for item in missing:
                raw = _unwrap(item, found[item]) if item in found else None
                self._known[item] = (now, AESGCM(raw) if raw else None)
        return {item: key for item in wanted if (key := self._known[item][1]) is not None}

    def forget(self, account_ids: Iterable[str]) -> None:
        """Read them anew next time."""
        for item in account_ids:
            self._known.pop(item, None)


keys = _Keys()


# -- writing -------------------------------------------------------------------------------------


class Sealer:
    """Seals the words of one batch of commands."""

    def __init__(self, account_ids: Iterable[str]) -> None:
        self.is_on = is_on()
        self._keys = keys.of(account_ids) if self.is_on else {}
        self._made: dict[str, bytes] = {}
        self._names: dict[str, str] = {}

    def text(self, account_id: str, plain: str) -> str:
        """The words as they are stored, under the key of an account that is there."""
        if not self.is_on or not plain:
            return plain
        key = self._keys.get(account_id) or keys.of([account_id]).get(account_id)
        if key is None:
            made = secrets.token_bytes(32)
            self._made[account_id], key = made, AESGCM(made)
        self._keys[account_id] = key
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + key.encrypt(nonce, plain.encode(), account_id.encode())
        return f"{MARK}{UUID(account_id).hex}.{base64.urlsafe_b64encode(sealed).decode()}"

    def event(self, account_id: str, event: E) -> E:
        """An event with its words sealed."""
        if not self.is_on:
            return event
        words = {name: getattr(event, name, "") for name in PERSONAL}
        changes: dict[str, Any] = {
            name: self.text(account_id, plain) for name, plain in words.items() if plain
        }
        if "holder" in changes:
            self._names[account_id] = words["holder"]
        return msgspec.structs.replace(event, **changes) if changes else event

    def body(self, account_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A command's record; words about an account that is not there have no key, and go."""
        if not self.is_on:
            return dict(body)
        return {
            name: self.text(account_id, value) if name in PERSONAL and account_id else value
            for name, value in body.items()
            if account_id or name not in PERSONAL
        }

    def save(self) -> bool:
        """Keep the new keys before anything that needs them is; False when another was faster."""
        if self._names:
            _index(self._names)
        if not self._made:
            return True
        rows = [
            SubjectKey(account_id=account_id, wrapped=wrap(account_id, key))
            for account_id, key in self._made.items()
        ]
        SubjectKey.objects.bulk_create(rows, ignore_conflicts=True)
        keys.forget(self._made)
        wrapped = {str(row.account_id): bytes(row.wrapped) for row in rows}
        stored = SubjectKey.objects.filter(account_id__in=list(wrapped))
        return all(bytes(row.wrapped) == wrapped[str(row.account_id)] for row in stored)


def seal(account_id: str, plain: str) -> str:
    """Words about an account that is there, outside of any batch."""
    for _ in range(3):
        sealer = Sealer([account_id])
        sealed = sealer.text(account_id, plain)
        if sealer.save():
            return sealed
    raise ConflictError("the account's key changed on every try; nothing was done")


# -- reading -------------------------------------------------------------------------------------


def reveal(text: str) -> str:
    """The words as they were written; `ERASED` when their key is gone."""
    if not text.startswith(MARK):
        return text
    subject, _, sealed = text[len(MARK) :].partition(".")
    try:
        account_id = str(UUID(subject))
        raw = base64.urlsafe_b64decode(sealed)
    except (ValueError, binascii.Error):
        return text  # somebody wrote it so before anything was sealed
    if not is_on():
        return UNREADABLE
    key = keys.of([account_id]).get(account_id)
    if key is None:
        return ERASED
    try:
        return key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], account_id.encode()).decode()
    except InvalidTag:
        return UNREADABLE


def revealed(value: Any) -> Any:
    """`reveal` for every text in a JSON value."""
    match value:
        case str():
            return reveal(value)
        case dict():
            return {name: revealed(item) for name, item in value.items()}
        case list():
            return [revealed(item) for item in value]
        case _:
            return value


# -- names ---------------------------------------------------------------------------------------


def _token(prefix: str) -> bytes:
    """The keyed digest of the beginning of a name."""
    return _tokens(prefix)[0]


def _tokens(prefix: str) -> list[bytes]:
    """By each key of the environment, the current one first."""
    return [
        hmac.new(_wrapping(text)[2], b"ledger-name" + prefix.encode(), hashlib.sha256).digest()[:16]
        for text in settings.LEDGER_PRIVACY_KEYS
    ]


def _index(names: Mapping[str, str]) -> None:
    rows = [
        NameToken(account_id=account_id, token=_token(name.lower()[:length]))
        for account_id, name in names.items()
        for length in range(1, min(len(name), PREFIX_MAX) + 1)
    ]
    with transaction.atomic():
        NameToken.objects.filter(account_id__in=list(names)).delete()
        NameToken.objects.bulk_create(rows, ignore_conflicts=True)


def named(prefix: str) -> QuerySet[Account]:
    """Accounts whose sealed holder begins with `prefix`, whatever the case; none when nothing is."""
    if not is_on():
        return Account.objects.none()
    found = NameToken.objects.filter(token__in=_tokens(prefix.lower()[:PREFIX_MAX]))
    return Account.objects.filter(pk__in=found.values("account_id"))


def rewrap() -> int:
    """Wrap every key with the current one, and make the digests of names with it; how many keys.

    Run while names are being changed it misses none: those are indexed as they are written.
    """
    done = 0
    for row in SubjectKey.objects.iterator(chunk_size=1000):
        account_id = str(row.account_id)
        key = _unwrap(account_id, bytes(row.wrapped))
        if key is None:
            continue
        SubjectKey.objects.filter(pk=row.pk).update(wrapped=wrap(account_id, key))
        holder = Account.objects.filter(pk=account_id).values_list("holder", flat=True).first()
        if holder and (name := reveal(holder)) not in (ERASED, UNREADABLE):
            _index({account_id: name})
        done += 1
    return done


# -- erasing -------------------------------------------------------------------------------------


def destroy(account_ids: Iterable[str]) -> None:
    """Destroy the keys of these accounts, and what finds their names: for ever."""
    ids = list(account_ids)
    NameToken.objects.filter(account_id__in=ids).delete()
    SubjectKey.objects.filter(account_id__in=ids).delete()
    keys.forget(ids)


def finish_erasures() -> int:
    """Destroy the keys of accounts whose erasure is recorded; how many that were.

    The event comes first: should a process end in between, this goes on where it was.
    """
    erased = Account.objects.filter(holder="", status="closed")
    due = SubjectKey.objects.filter(account_id__in=erased.values("id"))
    ids = [str(row.account_id) for row in due[:1000]]
    if ids:
        destroy(ids)
    return len(ids)
