"""Events by webhook, as standardwebhooks.com has it: signed, in order, at least once, and logged.

Each webhook follows the log with a cursor of its own, so nothing that is folded or rebuilt ever sends
anything. One that does not answer with 2xx is tried again later and later, and later events wait
behind; after `GIVE_UP_AFTER` it is switched off, and says so, until somebody switches it on again: it
then goes on where it stopped.

What a webhook may reach is bounded: https alone, no redirects, and no address that is private.
Both may be allowed for one's own network (LEDGER_WEBHOOKS_PRIVATE).
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import logging
import secrets
import socket
import ssl
import time
from datetime import datetime, timedelta
from urllib.parse import SplitResult, urlsplit

import msgspec
from django.conf import settings
from django.db.models.functions import Now

from ledger import store
from ledger.api.serializers import event_as_json
from ledger.codec import RecordedEvent
from ledger.domain.events import EVENT_TYPES
from ledger.errors import InvalidInputError
from projections.models import Delivery, Webhook

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
PAUSES = (5, 30, 120, 600, 1800, 3600, 7200, 14_400)
"""Seconds until the next try, by how often it failed in a row; the last one from then on."""
GIVE_UP_AFTER = timedelta(days=3)
EVENTS_PER_RUN = 200
SECONDS_PER_RUN = 10.0
"""Then it is the next one's turn: nobody waits for a slow neighbour."""
DELIVERIES_KEPT = 1000
SECRET_BYTES = 24


class NotDeliveredError(Exception):
    """The other side was not reached, or did not take it."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


def check_url(url: str) -> SplitResult:
    """The parts of an address that a webhook may have.

    Raises:
        InvalidInputError: it may not.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInputError(f"is no address: {error}", field="url") from error
    allowed = ("https", "http") if settings.LEDGER_WEBHOOKS_PRIVATE else ("https",)
    if parts.scheme not in allowed or not parts.hostname or port == 0:
        raise InvalidInputError(f"must be an address that begins with {allowed[0]}://", field="url")
    if parts.username or parts.password or len(url) > 500 or not url.isprintable():
        raise InvalidInputError("must be short and hold no password", field="url")
    return parts


def add(url: str, types: list[str], *, user: str) -> Webhook:
    """A new webhook that follows the log from now on; no `types` means all.

    Raises:
        InvalidInputError: the address may not be used, or a type is unknown.
    """
    check_url(url)
    unknown = sorted(set(types) - EVENT_TYPES.keys())
    if unknown:
        raise InvalidInputError(
            f"there is no event {', '.join(unknown)[:100]}; there are {', '.join(EVENT_TYPES)}",
            field="types",
        )
    return Webhook.objects.create(
        url=url,
        types=sorted(set(types)),
        secret="whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode(),
        position=store.last_position(),
        made_by=user,
    )


def switch_on(hook: Webhook) -> None:
    """Go on where it stopped, at once."""
    Webhook.objects.filter(pk=hook.pk).update(
        is_on=True, problem="", failures=0, failing_since=None, due_at=Now()
    )


def run() -> int:
    """Deliver what is due to every webhook; how many events that were."""
    with store.single_flight(store.Lock.WEBHOOKS) as got:
        if not got:
            return 0
        due = Webhook.objects.filter(is_on=True, due_at__lte=store.clock())
        return sum(_follow(hook) for hook in due)


def _follow(hook: Webhook) -> int:
    """The next events for one webhook, until one is not taken; how many were delivered."""
    delivered, deadline = 0, time.monotonic() + SECONDS_PER_RUN
    for event in store.read_log(after=hook.position, limit=EVENTS_PER_RUN):
        if time.monotonic() > deadline:
            break
        if not hook.types or event.type in hook.types:
            try:
                _deliver(hook, event)
            except NotDeliveredError as error:
                _failed(hook, event, error)
                break
            delivered += 1
        hook.position, hook.failures, hook.failing_since, hook.problem = event.position, 0, None, ""
        hook.save(update_fields=["position", "failures", "failing_since", "problem"])
    return delivered


def _failed(hook: Webhook, event: RecordedEvent, error: NotDeliveredError) -> None:
    now = store.clock()
    hook.failures += 1
    hook.failing_since = hook.failing_since or now
    hook.problem = f"event {event.position}: {error}"[:300]
    hook.due_at = now + timedelta(seconds=PAUSES[min(hook.failures, len(PAUSES)) - 1])
    hook.is_on = now - hook.failing_since < GIVE_UP_AFTER
    hook.save()
    log.warning("webhook %s: %s", hook.pk, hook.problem)


def _deliver(hook: Webhook, event: RecordedEvent) -> None:
    body = msgspec.json.encode(
        {
            "type": f"ledger.{event.type}.v{event.schema_version}",
            "timestamp": event_as_json(event)["recorded_at"],
            "data": event_as_json(event),
        }
    )
    now = store.clock()
    problem, status = "", None
    try:
        status = post(hook.url, body, signed(hook.secret, f"evt_{event.position}", now, body))
    except NotDeliveredError as error:
        problem, status = str(error), error.status
        raise
    finally:
        Delivery.objects.create(
            webhook=hook, position=event.position, status=status, problem=problem[:300]
        )
        if event.position % 100 == 0:
            _forget(hook)


def _forget(hook: Webhook) -> None:
    kept = hook.delivery_set.order_by("-id")[DELIVERIES_KEPT:].values_list("id", flat=True)[:1]
    for newest in kept:
        hook.delivery_set.filter(id__lte=newest).delete()


def signed(secret: str, identity: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers of a signed message (Standard Webhooks, symmetric signature ``v1``)."""
    moment = str(int(now.timestamp()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    told = b".".join((identity.encode(), moment.encode(), body))
    signature = base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": identity,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{signature}",
    }


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """Send it; the status, which is 2xx.

    The name is looked up once, and the address that was checked is the one that is called.

    Raises:
        NotDeliveredError: anything else.
    """
    parts = check_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    try:
        stream: socket.socket = socket.create_connection(
            (_address(host, port), port), timeout=TIMEOUT_SECONDS
        )
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        if parts.scheme == "https":
            stream = ssl.create_default_context().wrap_socket(stream, server_hostname=host)
        connection.sock = stream
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {**headers, "Content-Type": "application/json", "User-Agent": "ledger-webhooks"}
        connection.request("POST", target, body, sent)
        status = connection.getresponse().status
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise NotDeliveredError(f"{type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        raise NotDeliveredError(f"answered {status}", status)
    return status


def _address(host: str, port: int) -> str:
    """An address of `host` that may be called.

    Raises:
        NotDeliveredError: it has one that may not.
    """
    found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not settings.LEDGER_WEBHOOKS_PRIVATE:
        for address in found:
            if not ipaddress.ip_address(address.partition("%")[0]).is_global:
                raise NotDeliveredError(f"{host} is {address}, which is not a public address")
    return found[0]
