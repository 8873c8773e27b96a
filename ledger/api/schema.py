"""What the OpenAPI document says of each route: parameters, answers, problems."""

from collections.abc import Mapping, Sequence
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import serializers

from ledger.api import views
from ledger.api.serializers import (
    BATCH_COMMANDS_MAX,
    AmountField,
    BatchSerializer,
    CommandsField,
    CounterpartField,
    CurrencyField,
    FlagField,
    IdField,
    OpenAccountSerializer,
    TextField,
    TimeField,
)
from ledger.domain.commands import COMMANDS

_FIELD_SCHEMAS: Mapping[type[Any], dict[str, Any]] = {
    IdField: {"type": "string", "format": "uuid"},
    TextField: {"type": "string"},
    CounterpartField: {"type": "string", "example": "bank:DE89370400440532013000"},
    TimeField: {"type": "string", "format": "date-time"},
    CurrencyField: {"type": "string", "pattern": "^[A-Z]{3}$", "example": "EUR"},
    FlagField: {"type": "boolean", "default": False},
    CommandsField: {
        "type": "array",
        "items": {"type": "object", "additionalProperties": {}},
        "minItems": 1,
        "maxItems": BATCH_COMMANDS_MAX,
    },
    AmountField: {
        "type": "string",
        "pattern": r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,4})?$",
        "example": "12.50",
    },
}


class _StrictFieldSchema(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # untyped there
    """Tells spectacular the JSON type of our fields."""

    target_class = "ledger.api.serializers._StrictField"
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """The schema by the field's class."""
        schema = dict(_FIELD_SCHEMAS[type(self.target)])
        if isinstance(self.target, TextField):
            schema["maxLength"] = self.target.length
        return schema


class ProblemSerializer(serializers.Serializer[Any]):
    """RFC 9457. `type` leads to an explanation; `code` is stable."""

    type = serializers.URLField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField()
    code = serializers.CharField()
    correlation_id = serializers.CharField()
    errors = serializers.ListField(child=serializers.DictField(), required=False)  # type: ignore[assignment]  # a field named like a property


class HoldStateSerializer(serializers.Serializer[Any]):
    """An open hold."""

    id = serializers.UUIDField()
    amount = serializers.CharField()
    counterpart = serializers.CharField()
    expires_at = serializers.DateTimeField(allow_null=True)


class AccountStateSerializer(serializers.Serializer[Any]):
    """An account at one version."""

    id = serializers.UUIDField()
    version = serializers.IntegerField()
    status = serializers.CharField()
    holder = serializers.CharField()
    owner = serializers.CharField()
    reference = serializers.CharField()
    currency = serializers.CharField()
    balance = serializers.CharField()
    held = serializers.CharField()
    available = serializers.CharField()
    overdraft_limit = serializers.CharField()
    transactions = serializers.IntegerField()
    holds = HoldStateSerializer(many=True)


class OutcomeEventSerializer(serializers.Serializer[Any]):
    """An event that a command caused."""

    account_id = serializers.UUIDField()
    version = serializers.IntegerField()
    position = serializers.IntegerField(allow_null=True)
    type = serializers.CharField()


class OutcomeSerializer(serializers.Serializer[Any]):
    """An accepted command. Also the id of the transaction or hold that it made."""

    command_id = serializers.UUIDField()
    command = serializers.CharField()
    status = serializers.CharField()
    recorded_at = serializers.DateTimeField(allow_null=True)
    first_position = serializers.IntegerField(allow_null=True)
    last_position = serializers.IntegerField(allow_null=True)
    events = OutcomeEventSerializer(many=True)
    accounts = AccountStateSerializer(many=True)


class EventSerializer(serializers.Serializer[Any]):
    """An event as stored; amounts in minor units."""

    position = serializers.IntegerField()
    account_id = serializers.UUIDField()
    version = serializers.IntegerField()
    type = serializers.CharField()
    schema_version = serializers.IntegerField()
    payload = serializers.DictField()
    metadata = serializers.DictField()
    effective_at = serializers.DateTimeField()
    recorded_at = serializers.DateTimeField()
    leaf_hash = serializers.CharField()


class EventPageSerializer(serializers.Serializer[Any]):
    """A page of events."""

    data = EventSerializer(many=True)  # type: ignore[assignment]  # a field named like a property
    has_more = serializers.BooleanField()
    next_cursor = serializers.CharField(allow_null=True)


class AccountPageSerializer(serializers.Serializer[Any]):
    """A page of accounts."""

    data = AccountStateSerializer(many=True)  # type: ignore[assignment]  # a field named like a property
    has_more = serializers.BooleanField()
    next_cursor = serializers.CharField(allow_null=True)


def _problem(text: str) -> OpenApiResponse:
    return OpenApiResponse(ProblemSerializer, description=text)


READ_PROBLEMS: dict[Any, Any] = {
    (400, "application/problem+json"): _problem("The request is malformed."),
    (401, "application/problem+json"): _problem("Not signed in."),
    (403, "application/problem+json"): _problem("The role does not allow it."),
    (404, "application/problem+json"): _problem("It does not exist, or is not yours."),
    (429, "application/problem+json"): _problem("Too many requests; RateLimit says how many."),
    (503, "application/problem+json"): _problem("Try again after Retry-After."),
}
COMMAND_RESPONSES: dict[Any, Any] = {
    200: OpenApiResponse(OutcomeSerializer, description="A dry run: nothing was stored."),
    201: OpenApiResponse(OutcomeSerializer, description="Committed and flushed."),
    **READ_PROBLEMS,
    (409, "application/problem+json"): _problem("It was done before, or a race was lost."),
    (412, "application/problem+json"): _problem("If-Match names another version."),
    (415, "application/problem+json"): _problem("Not application/json."),
    (422, "application/problem+json"): _problem("A rule refused it, or the key is another's."),
}


def _query(name: str, text: str, kind: OpenApiTypes = OpenApiTypes.STR) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=text)


def _header(name: str, text: str, *, required: bool = False) -> OpenApiParameter:
    return OpenApiParameter(
        name, OpenApiTypes.STR, OpenApiParameter.HEADER, required=required, description=text
    )


COMMAND_PARAMETERS: Sequence[OpenApiParameter] = [
    _header("Idempotency-Key", "Your own unique name for this command.", required=True),
    _header("If-Match", 'The version that you saw, as "v41"; another one is a 412.'),
    _header("X-Correlation-Id", "Your name for the business transaction."),
    _query("dry_run", "true: the real decision, nothing stored.", OpenApiTypes.BOOL),
]
_PAGING = [
    _query("after", "The next_cursor of the page before."),
    _query("limit", "1 to 1000, by default 100.", OpenApiTypes.INT),
]
READ_REASON = _header(
    "Read-Reason",
    "Why you look, such as a case number. Required of staff; programs and customers need none.",
)
ACCOUNT_FILTERS = ("holder", "owner", "reference", "currency", "status")
_MOMENT = {
    "version": "The account's version.",
    "position": "A position of the log.",
    "as_of": "RFC 3339 with offset, inclusive; a plain date means the end of that day, UTC.",
}


def summary_of(name: str) -> str:
    """The first sentence of a command's docstring."""
    return (COMMANDS[name].__doc__ or name).strip().splitlines()[0]


accounts_view = extend_schema_view(
    post=extend_schema(
        operation_id="open",
        summary=summary_of("OpenAccount"),
        request=OpenAccountSerializer,
        parameters=COMMAND_PARAMETERS,
        responses=COMMAND_RESPONSES,
    ),
    get=extend_schema(
        operation_id="accounts",
        parameters=[
            *(_query(name, "Exactly this.") for name in ACCOUNT_FILTERS),
            *_PAGING,
        ],
        responses={200: AccountPageSerializer, **READ_PROBLEMS},
    ),
)(views.AccountsView)
batch_view = extend_schema_view(
    post=extend_schema(
        operation_id="batch",
        request=BatchSerializer,
        parameters=[COMMAND_PARAMETERS[0], COMMAND_PARAMETERS[2], COMMAND_PARAMETERS[3]],
        responses={200: OpenApiTypes.OBJECT, **COMMAND_RESPONSES},
    )
)(views.BatchView)
stream_view = extend_schema_view(
    get=extend_schema(
        operation_id="account_events",
        parameters=[READ_REASON, *_PAGING],
        responses={200: EventPageSerializer, **READ_PROBLEMS},
    )
)(views.StreamView)
log_view = extend_schema_view(
    get=extend_schema(
        operation_id="events",
        parameters=_PAGING,
        responses={200: EventPageSerializer, **READ_PROBLEMS},
    )
)(views.LogView)
feed_view = extend_schema_view(
    get=extend_schema(
        operation_id="feed",
        parameters=[
            _PAGING[0],
            OpenApiParameter(
                "Last-Event-ID",
                OpenApiTypes.INT,
                OpenApiParameter.HEADER,
                description="The position of the last event that you have; browsers send it.",
            ),
        ],
        responses={
            (200, "text/event-stream"): OpenApiTypes.STR,
            **READ_PROBLEMS,
        },
    )
)(views.FeedView)
state_view = extend_schema_view(
    get=extend_schema(
        operation_id="state",
        parameters=[
            READ_REASON,
            *(_query(name, text) for name, text in _MOMENT.items()),
            _query("effective_as_of", "Of what was known then, only what counted by this moment."),
        ],
        responses={200: OpenApiTypes.OBJECT, **READ_PROBLEMS},
    )
)(views.StateView)
difference_view = extend_schema_view(
    get=extend_schema(
        operation_id="difference",
        parameters=[
            READ_REASON,
            *(
                _query(f"{side}_{name}", text)
                for side in ("from", "to")
                for name, text in _MOMENT.items()
            ),
        ],
        responses={200: OpenApiTypes.OBJECT, **READ_PROBLEMS},
    )
)(views.DifferenceView)
outcome_view = extend_schema_view(
    get=extend_schema(operation_id="command", responses={200: OutcomeSerializer, **READ_PROBLEMS})
)(views.OutcomeView)
outcomes_view = extend_schema_view(
    get=extend_schema(
        operation_id="command_by_key",
        parameters=[_query("idempotency_key", "The key that you sent.")],
        responses={200: OutcomeSerializer, **READ_PROBLEMS},
    )
)(views.OutcomesView)
trial_balance_view = extend_schema_view(
    get=extend_schema(
        operation_id="trial_balance",
        parameters=[_query(name, _MOMENT[name]) for name in ("position", "as_of")],
        responses={200: OpenApiTypes.OBJECT, **READ_PROBLEMS},
    )
)(views.TrialBalanceView)
