"""Requests made up from the OpenAPI document: never a 500, and never an answer it does not name."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from knox.models import AuthToken
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from config.wsgi import application
from ledger import streams
from tests.conftest import user_with

EXAMPLES = 30


@pytest.fixture
def token(live_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    settings.ALLOWED_HOSTS = ["*"]
    monkeypatch.setattr(streams, "LIFE_SECONDS", 0.0)
    _, made = AuthToken.objects.create(user_with("service"))
    return str(made)


@pytest.mark.timeout(400)
def test_every_answer_is_one_that_the_document_names(token: str) -> None:
    described = schemathesis.openapi.from_wsgi("/api/v1/schema/", application)
    found: list[Any] = list(described.get_all_operations())
    operations = [item.ok() for item in found]
    assert len(operations) > 30
    wrong: list[str] = []
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            case.call_and_validate(
                headers={"Authorization": f"Bearer {token}"},
                checks=[not_a_server_error, status_code_conformance, content_type_conformance],
            )

        try:
            holds()
        except (Exception, BaseExceptionGroup) as error:
            wrong.append(f"{operation.label}: {error}"[:1500])
    assert not wrong, "\n\n".join(wrong)
