"""REST over the event store: commands in, outcomes and history out.

A view translates in, makes one call, translates out.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import msgspec
from django.http import HttpResponse, HttpResponseBase
from django.urls import reverse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ledger import access, codec, errors, handlers, history, looks, privacy, roles, store, streams
from ledger.api import problems
from ledger.api.renderers import JSONNegotiation, StreamNegotiation, rendered
from ledger.api.serializers import (
    BatchSerializer,
    account_as_json,
    canonical_uuid,
    command_of,
    event_as_json,
    outcome_as_json,
)
from ledger.domain import commands
from ledger.domain.money import format_amount
from ledger.domain.times import parse_moment
from ledger.history import Moment
from ledger.models import Account, Command
from ledger.service import bus

PAGE_MAX = 1000
PAGE_DEFAULT = 100
_KEY = re.compile(r'"?([\x21\x23-\x7e](?:[\x20\x21\x23-\x7e]{0,253}[\x21\x23-\x7e])?)"?', re.ASCII)
_IF_MATCH = re.compile(r'"?v?(\d{1,9})"?', re.ASCII)


def idempotency_key(request: Request) -> str:
    """The required ``Idempotency-Key``: 1 to 255 visible ASCII characters, bare or quoted."""
    sent = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if sent is None:
        raise errors.InvalidInputError(
            "send an Idempotency-Key header: your own unique name for this command",
            field="Idempotency-Key",
        )
    match = _KEY.fullmatch(sent)
    if match is None:
        raise errors.InvalidInputError(
            "must be 1 to 255 visible ASCII characters", field="Idempotency-Key"
        )
    return match.group(1)


def expected_version(request: Request) -> int | None:
    """The version in ``If-Match: "v41"``, if sent."""
    sent = request.META.get("HTTP_IF_MATCH")
    if sent is None:
        return None
    match = _IF_MATCH.fullmatch(sent)
    if match is None:
        raise errors.InvalidInputError('must be a version such as "v41"', field="If-Match")
    return int(match.group(1))


def query(request: Request, allowed: Sequence[str]) -> dict[str, str]:
    """The query parameters, each at most once and all known.

    Raises:
        InvalidInputError: one is unknown or comes twice.
    """
    for name, values in request.query_params.lists():
        if name not in allowed:
            raise errors.InvalidInputError(
                f"is not known here; allowed are {', '.join(allowed) or 'none'}", field=name
            )
        if len(values) > 1:
            raise errors.InvalidInputError("was given twice", field=name)
        if "\x00" in values[0]:
            raise errors.InvalidInputError("must not hold NUL characters", field=name)
    return {name: str(value) for name, value in request.query_params.items()}


def integer(
    params: Mapping[str, str], name: str, *, least: int = 0, most: int = 2**53 - 1
) -> int | None:
    """A whole number from the query, if given."""
    text = params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise errors.InvalidInputError(f"must be a whole number from {least} to {most}", field=name)
    return int(text)


def moment_of(params: Mapping[str, str], prefix: str = "") -> Moment:
    """The moment that the query asks for; at most one of version, position and as_of."""
    given = [name for name in ("version", "position", "as_of") if prefix + name in params]
    if len(given) > 1:
        raise errors.InvalidInputError(
            "give one of version, position and as_of", field=prefix + given[1]
        )
    as_of, effective = params.get(prefix + "as_of"), params.get(prefix + "effective_as_of")
    return Moment(
        version=integer(params, prefix + "version", least=1, most=2**31 - 1),
        position=integer(params, prefix + "position", least=1),
        as_of=parse_moment(as_of, field=prefix + "as_of") if as_of is not None else None,
        effective_as_of=(
            parse_moment(effective, field=prefix + "effective_as_of")
            if effective is not None
            else None
        ),
    )


def is_dry_run(params: Mapping[str, str]) -> bool:
    """Whether ``?dry_run=true`` was sent."""
    value = params.get("dry_run", "false")
    if value not in ("true", "false"):
        raise errors.InvalidInputError("must be true or false", field="dry_run")
    return value == "true"


class LedgerView(APIView):
    """Checks `action` for reads before anything else, and records who looks.

    `looks_at` names what a GET shows of accounts, empty if nothing; `is_past` asks for a reason.
    """

    action: ClassVar[str] = ""
    looks_at: ClassVar[str] = ""
    is_past: ClassVar[bool] = False
    content_negotiation_class = JSONNegotiation

    def finalize_response(
        self, request: Request, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Data, never a page: nothing in it may be run or framed."""
        response["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
        for name, text in getattr(request._request, "rate_limit_fields", {}).items():  # noqa: SLF001
            response[name] = text
        return super().finalize_response(request, response, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, then require the view's action, then record the look."""
        super().initial(request, *args, **kwargs)
        if self.action:
            roles.require(request.user, self.action)
        if self.looks_at and request.method in ("GET", "HEAD"):
            account_id = kwargs.get("account_id")
            accounts = [canonical_uuid(account_id, field="account_id")] if account_id else []
            self.record_look(request, self.looks_at, accounts)

    def record_look(self, request: Request, what: str, accounts: Sequence[str]) -> None:
        """Record the look of a member of staff, who says why in the header ``Read-Reason``.

        Links in pages send no header: then the reason stated in the audit pages counts.

        Raises:
            InvalidInputError: the reason is missing for the past, or is none.
        """
        if not looks.is_recorded(request.user):
            return
        reason = request.META.get("HTTP_READ_REASON", "") or looks.reason_of(request._request)  # noqa: SLF001
        if reason or self.is_past:
            reason = looks.check_reason(reason, field="Read-Reason")
        looks.record(
            request.user,
            what,
            accounts=accounts,
            moment=request.META.get("QUERY_STRING", ""),
            reason=reason,
            channel="api",
            correlation_id=problems.correlation_id(request._request),  # noqa: SLF001
        )


class CommandView(LedgerView):
    """POST of one command; subclasses name it. `created` is 201, others answer 200."""

    command_name: ClassVar[str] = ""

    def post(self, request: Request, **ids: str) -> HttpResponse:
        """Decide the command and answer its outcome."""
        params = query(request, ["dry_run"])
        urls = {name: canonical_uuid(value, field=name) for name, value in ids.items()}
        command, said = command_of(self.command_name, request.data, urls)
        dry_run = is_dry_run(params)
        access.check_command(request.user, command, is_approved=dry_run)
        envelope = access.envelope_for(
            request.user,
            command,
            said,
            key=idempotency_key(request),
            channel="api",
            correlation_id=_sent_correlation(request),
            expected_version=expected_version(request),
            dry_run=dry_run,
        )
        outcome = bus.send_one(envelope)
        if outcome.error is not None:
            receiver = getattr(command, "to_account_id", "")
            raise _Refused(outcome, access.hide_refusal(request.user, outcome.error, receiver))
        return outcome_response(request, outcome)

    def handle_exception(self, exc: Exception) -> HttpResponseBase:  # type: ignore[override]  # DRF says Response
        """A replayed refusal says that it is one."""
        if isinstance(exc, _Refused):
            response = super().handle_exception(exc.error)
            _mark(response, exc.outcome)
            return response
        return super().handle_exception(exc)


class _Refused(Exception):  # noqa: N818
    def __init__(self, outcome: handlers.Outcome, error: Exception) -> None:
        super().__init__(str(error))
        self.outcome = outcome
        self.error = error


def _sent_correlation(request: Request) -> str:
    sent = request.META.get("HTTP_X_CORRELATION_ID")
    return problems.correlation_id(request._request) if sent else ""  # noqa: SLF001


@cache
def _url_before_id(name: str) -> str:
    return reverse(name, args=["-"]).removesuffix("-")


def _mark(response: HttpResponseBase, outcome: handlers.Outcome) -> None:
    response["Location"] = _url_before_id("api-command") + outcome.command_id
    if outcome.replayed:
        response["Idempotent-Replayed"] = "true"


def outcome_response(request: Request, outcome: handlers.Outcome) -> HttpResponse:
    """The answer to an accepted command: 201, where it is, and the versions it made."""
    body = outcome_as_json(access.visible(request.user, outcome))
    response = rendered(body, status=200 if outcome.dry_run else 201)
    if outcome.dry_run:
        return response
    _mark(response, outcome)
    if outcome.name == "OpenAccount":
        response["Location"] = _url_before_id("api-account") + outcome.events[0].account_id
    response["Ledger-Position"] = str(outcome.last_position)
    if outcome.accounts:
        response["ETag"] = f'"v{outcome.accounts[0].version}"'
    return response


class BatchView(LedgerView):
    """POST of up to 1,000 commands, each on its own or all or nothing."""

    def post(self, request: Request) -> Response:
        """Decide the commands in order; the answer has one item per command."""
        params = query(request, ["dry_run"])
        key = idempotency_key(request)
        body = BatchSerializer().run_validation(request.data)
        atomic: bool = body.get("atomic", False)
        items: list[dict[str, Any]] = body["commands"]
        envelopes = self._envelopes(request, items, key, atomic=atomic, dry_run=is_dry_run(params))
        units = [envelopes] if atomic else [[envelope] for envelope in envelopes]
        results = [result for unit in bus.send(units) for result in unit]
        answers = [
            self._answer(request, envelope.command, result)
            for envelope, result in zip(envelopes, results, strict=True)
        ]
        refused = [answer for answer in answers if answer["status"] == "rejected"]
        failed = [answer for answer in answers if answer["status"] == "failed"]
        status = 200
        if failed:
            status = 503
        elif atomic and refused:
            status = 422
        response = Response(
            {
                "atomic": atomic,
                "accepted": len(answers) - len(refused) - len(failed),
                "rejected": len(refused),
                "failed": len(failed),
                "commands": answers,
            },
            status=status,
        )
        positions = [
            result.last_position for result in results if isinstance(result, handlers.Outcome)
        ]
        if any(positions):
            response["Ledger-Position"] = str(max(filter(None, positions)))
        if results and all(getattr(result, "replayed", False) for result in results):
            response["Idempotent-Replayed"] = "true"
        if failed:
            response["Retry-After"] = str(problems.RETRY_AFTER_SECONDS)
        return response

    def _envelopes(
        self,
        request: Request,
        items: list[dict[str, Any]],
        key: str,
        *,
        atomic: bool,
        dry_run: bool,
    ) -> list[handlers.Envelope]:
        envelopes: list[handlers.Envelope] = []
        listed: list[dict[str, str]] = []
        for number, item in enumerate(items):
            try:
                command, said = command_of_item(item)
                access.check_command(request.user, command, is_approved=dry_run)
            except errors.LedgerError as error:
                for found in error.facts.get("errors") or [
                    {"field": error.field or "", "detail": error.detail}
                ]:
                    field = f"commands[{number}].{found['field']}".rstrip(".")
                    listed.append({"field": field, "code": error.code, "detail": found["detail"]})
                if isinstance(error, errors.ForbiddenError):
                    raise
                continue
            envelopes.append(
                access.envelope_for(
                    request.user,
                    command,
                    {"batch": len(items), "atomic": atomic, **said},
                    key=f"{key}/{number}",
                    channel="api",
                    correlation_id=_sent_correlation(request),
                    dry_run=dry_run,
                )
            )
        if listed:
            raise errors.InvalidInputError(
                f"{listed[0]['field']}: {listed[0]['detail']}", errors=listed
            )
        return envelopes

    def _answer(
        self, request: Request, command: commands.Command, result: handlers.Result
    ) -> dict[str, Any]:
        if isinstance(result, handlers.Outcome) and result.error is None:
            return outcome_as_json(access.visible(request.user, result))
        error = result.error if isinstance(result, handlers.Outcome) else result
        if not isinstance(error, errors.LedgerError):
            error = errors.StoreUnavailableError("this command met a fault; send it again")
        error = access.hide_refusal(request.user, error, getattr(command, "to_account_id", ""))
        answer = {
            "status": "rejected" if isinstance(error, errors.Rejected) else "failed",
            "problem": problems.problem_of(request._request, error),  # noqa: SLF001
        }
        if isinstance(result, handlers.Outcome):
            answer["command_id"] = result.command_id
        return answer


def command_of_item(item: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """As `command_of`, for a command that names itself and its ids beside its other fields."""
    body = dict(item)
    name = body.pop("command", None)
    if not isinstance(name, str) or name not in BATCH_COMMANDS:
        raise errors.InvalidInputError(
            f"must be one of {', '.join(sorted(BATCH_COMMANDS))}", field="command"
        )
    ids = {
        field: canonical_uuid(body.pop(field, None), field=field) for field in BATCH_COMMANDS[name]
    }
    return command_of(name, body, ids)


BATCH_COMMANDS: Mapping[str, Sequence[str]] = {
    "OpenAccount": (),
    "Deposit": ("account_id",),
    "Withdraw": ("account_id",),
    "Transfer": (),
    "PlaceHold": ("account_id",),
    "CaptureHold": ("account_id", "hold_id"),
    "ReleaseHold": ("account_id", "hold_id"),
    "ReverseTransaction": (),
    "AdjustBalance": ("account_id",),
    "FreezeAccount": ("account_id",),
    "UnfreezeAccount": ("account_id",),
    "SetOverdraftLimit": ("account_id",),
    "ChangeHolder": ("account_id",),
    "CloseAccount": ("account_id",),
    "EraseHolder": ("account_id",),
}
"""Command name to the ids that stand in the URL when it is sent on its own."""


# -- reads ---------------------------------------------------------------------------------------


def page(request: Request, items: list[Any], limit: int, cursor: str, last: Any) -> Response:
    """A page of `items`, of which one more than `limit` was read to know whether there is more."""
    more = len(items) > limit
    body: dict[str, Any] = {"data": items[:limit], "has_more": more, "next_cursor": None}
    response = Response(body)
    if more:
        body["next_cursor"] = str(last)
        params = request.query_params.copy()
        params[cursor] = str(last)
        link = request.build_absolute_uri(f"{request.path}?{params.urlencode()}")
        response["Link"] = f'<{link}>; rel="next"'
    return response


def _limit(params: Mapping[str, str]) -> int:
    return integer(params, "limit", least=1, most=PAGE_MAX) or PAGE_DEFAULT


class StreamView(LedgerView):
    """The events of an account, oldest first."""

    looks_at = "events"
    is_past = True

    def get(self, request: Request, account_id: str) -> Response:
        """Events with version above `after`."""
        params = query(request, ["after", "limit"])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        limit = _limit(params)
        after = integer(params, "after", most=2**31 - 1) or 0
        events = store.read_stream(account_id, after=after, limit=limit + 1)
        if not events and after == 0:
            raise errors.NotFoundError(f"account {account_id} does not exist")
        last = events[limit - 1].version if len(events) > limit else None
        items = [event_as_json(event, is_revealed=True) for event in events]
        return page(request, items, limit, "after", last)


class LogView(LedgerView):
    """The whole log, in order: a feed to follow by position."""

    action = "read_log"
    looks_at = "log"

    def get(self, request: Request) -> Response:
        """Events with position above `after`."""
        params = query(request, ["after", "limit"])
        limit = _limit(params)
        events = store.read_log(after=integer(params, "after") or 0, limit=limit + 1)
        last = events[limit - 1].position if len(events) > limit else None
        return page(request, [event_as_json(event) for event in events], limit, "after", last)


class FeedView(LedgerView):
    """The log as a stream of server-sent events that can be taken up again."""

    action = "read_log"
    looks_at = "log"
    content_negotiation_class = StreamNegotiation

    def get(self, request: Request) -> HttpResponseBase:
        """Events with position above `after`, or above ``Last-Event-ID``, and then the new ones.

        The stream ends after a minute; clients take it up again by themselves.
        """
        params = query(request, ["after"])
        position = integer(params, "after") or 0
        seen = request.META.get("HTTP_LAST_EVENT_ID", "")
        if seen:
            position = integer({"Last-Event-ID": seen}, "Last-Event-ID") or 0

        def look() -> Sequence[streams.Message]:
            nonlocal position
            events = store.read_log(after=position, limit=PAGE_MAX)
            if events:
                position = events[-1].position
            return [
                streams.Message(
                    identity=str(event.position), event=event.type, data=event_as_json(event)
                )
                for event in events
            ]

        return streams.respond(look)


def state_as_json(found: history.StateAt) -> dict[str, Any]:
    """A past state with the boundary that answers."""
    now = found.moment.effective_as_of or found.moment.as_of or found.recorded_at
    asked = {
        name: codec.format_time(value) if name.endswith("as_of") else value
        for name, value in msgspec.structs.asdict(found.moment).items()
        if value is not None
    }
    assert now is not None  # noqa: S101  (a state always has a boundary event)
    return {
        "asked": asked,
        "boundary": {
            "rule": "events recorded at or before the moment count",
            "version": found.version,
            "position": found.position,
            "recorded_at": codec.format_time(found.recorded_at) if found.recorded_at else None,
            "log_position": found.log_position,
        },
        "account": account_as_json(found.account, now=now),
    }


class StateView(LedgerView):
    """An account at any past moment."""

    looks_at = "state"
    is_past = True

    def get(self, request: Request, account_id: str) -> Response:
        """The state at `version`, `position` or `as_of`, and `effective_as_of` along the other axis."""
        params = query(request, ["version", "position", "as_of", "effective_as_of"])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        found = history.state_at(account_id, moment_of(params))
        response = Response(state_as_json(found))
        response["ETag"] = f'"v{found.version}"'
        return response


class DifferenceView(LedgerView):
    """What parts two moments of an account."""

    looks_at = "difference"
    is_past = True

    def get(self, request: Request, account_id: str) -> Response:
        """Changed fields and the events between ``from_*`` and ``to_*`` (default: now)."""
        names = ["version", "position", "as_of"]
        params = query(request, [f"{side}_{name}" for side in ("from", "to") for name in names])
        account_id = canonical_uuid(account_id, field="account_id")
        access.check_account(request.user, account_id)
        earlier, later = moment_of(params, "from_"), moment_of(params, "to_")
        if earlier == Moment():
            raise errors.InvalidInputError("give one of from_version, from_position, from_as_of")
        found = history.difference(account_id, earlier, later)
        currency = found.after.account.currency
        return Response(
            {
                "before": state_as_json(found.before),
                "after": state_as_json(found.after),
                "changes": [
                    {
                        "field": name,
                        "before": _shown(name, old, currency),
                        "after": _shown(name, new, currency),
                    }
                    for name, old, new in found.changes
                ],
                "events": [event_as_json(event) for event in found.events],
                "events_total": found.events_total,
            }
        )


def _shown(name: str, value: object, currency: str) -> object:
    if name in ("balance", "held", "overdraft_limit") and isinstance(value, int):
        return format_amount(value, currency)
    return value


def visible_command(request: Request, command_id: str) -> Command:
    """The record of a command that the user sent or may read.

    Raises:
        NotFoundError: there is none such.
    """
    command_id = canonical_uuid(command_id, field="command_id")
    row = Command.objects.filter(pk=command_id).first()
    own = row is not None and row.sender == access.sender_of(request.user)
    if row is None or not (own or "read" in roles.actions_of(request.user)):
        raise errors.NotFoundError(f"command {command_id} does not exist")
    return row


class OutcomeView(LedgerView):
    """What became of a command."""

    def get(self, request: Request, command_id: str) -> Response:
        """The outcome by command id; for senders who lost an answer, see `OutcomesView`."""
        query(request, [])
        row = visible_command(request, command_id)
        self.record_look(request, "command", store.accounts_of_command(row.id))
        return Response(outcome_detail(request, row))


class OutcomesView(LedgerView):
    """Look up an outcome by one's own idempotency key."""

    def get(self, request: Request) -> Response:
        """The outcome of the command that the caller sent with `idempotency_key`."""
        params = query(request, ["idempotency_key"])
        key = params.get("idempotency_key")
        if not key:
            raise errors.InvalidInputError("is required", field="idempotency_key")
        row = Command.objects.filter(
            sender=access.sender_of(request.user), idempotency_key=key
        ).first()
        if row is None:
            raise errors.NotFoundError("no command was recorded under this key: it may be sent")
        return Response(outcome_detail(request, row))


def outcome_detail(request: Request, row: Command) -> dict[str, Any]:
    """A recorded command with its outcome."""
    outcome = handlers.outcome_of(str(row.id))
    if outcome.error is not None:
        receiver = row.body.get("to_account_id", "")
        error = access.hide_refusal(request.user, outcome.error, receiver)
        answer: dict[str, Any] = {
            "command_id": outcome.command_id,
            "command": outcome.name,
            "status": "rejected",
            "problem": problems.problem_of(request._request, error),  # noqa: SLF001
        }
    else:
        answer = outcome_as_json(access.visible(request.user, outcome))
    return {
        **answer,
        "actor": row.actor,
        "channel": row.channel,
        "correlation_id": row.correlation_id,
        "received_at": codec.format_time(row.received_at),
    }


class AccountsView(CommandView):
    """List accounts, or open one."""

    command_name = "OpenAccount"
    looks_at = "accounts"

    def get(self, request: Request) -> Response:
        """Accounts by id; a customer sees own ones."""
        names = ["holder", "owner", "reference", "currency", "status"]
        params = query(request, [*names, "after", "limit"])
        rows = Account.objects.order_by("id")
        if "read" not in roles.actions_of(request.user):
            roles.require(request.user, "read_own")
            rows = rows.filter(owner=request.user.get_username()).exclude(owner="")
        for name in names:
            if name in params and name != "holder":
                rows = rows.filter(**{name: params[name]})
        if "holder" in params:
            rows = access.held_by(rows, params["holder"])
        if "after" in params:
            rows = rows.filter(id__gt=canonical_uuid(params["after"], field="after"))
        limit = _limit(params)
        found = list(rows[: limit + 1])
        privacy.keys.of(str(row.id) for row in found)
        now = store.clock()
        items = [account_as_json(history.trusted(head_of(row)), now=now) for row in found]
        last = found[limit - 1].id if len(found) > limit else None
        return page(request, items, limit, "after", last)


def head_of(row: Account) -> store.Head:
    """The head of a model row."""
    return store.Head(
        account_id=str(row.id),
        version=row.version,
        state_schema=row.state_schema,
        state=codec.encode(row.state),
    )


class TrialBalanceView(LedgerView):
    """The whole ledger at a moment: per currency, customers and the outside world sum to zero."""

    action = "read_log"

    def get(self, request: Request) -> Response:
        """Sums at `position` or `as_of`, by default now."""
        params = query(request, ["position", "as_of"])
        position, _ = history.check_moment(moment_of(params))
        return Response({"position": position, "currencies": history.trial_balance(position)})
