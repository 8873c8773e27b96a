"""REST as a frontend sees it: through all middleware, on the real database."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.urls import get_resolver
from openapi_spec_validator import validate

from ledger import errors, store
from ledger.api.problems import DOCUMENTED, STATUS, status_of
from ledger.models import Command
from tests.conftest import Api, in_threads, user_with

As = Callable[[str], Api]


def assert_problem(answer: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["type"].endswith(f"/problems/{code}")
    assert body["correlation_id"]
    if field is not None:
        assert field in [item["field"] for item in body["errors"]], body
    return body


def effects() -> tuple[int, int]:
    return store.last_position(), Command.objects.count()


class TestCommands:
    def test_the_whole_life_of_an_account(self, api: Api, api_as: As) -> None:
        program = api_as("service")  # corrections by people need two of them
        other = api.open()
        opened = api.post("accounts", {"holder": "Ann", "currency": "EUR"})
        account = opened.json()["accounts"][0]["id"]
        assert (opened.status_code, opened["Location"]) == (201, f"/api/v1/accounts/{account}")
        base = f"accounts/{account}"
        api.post(f"{base}/overdraft-limit", {"limit": "20.00", "currency": "EUR"})
        paid = api.post(f"{base}/deposits", {"amount": "50", "currency": "EUR"})
        assert (paid["ETag"], paid.json()["accounts"][0]["available"]) == ('"v3"', "70.00")
        moved = api.post(
            "transfers",
            {
                "from_account_id": account,
                "to_account_id": other,
                "amount": "70.00",
                "currency": "EUR",
            },
        )
        assert moved.json()["accounts"][0]["balance"] == "-20.00"
        assert_problem(
            api.post(f"{base}/withdrawals", {"amount": "0.01", "currency": "EUR"}),
            422, "insufficient_funds", "amount",
        )  # fmt: skip
        back = program.post(
            "reversals", {"transaction_id": moved.json()["command_id"], "reason": "x"}
        )
        assert back.status_code == 201
        hold = api.post(
            f"{base}/holds", {"amount": "30.00", "currency": "EUR", "counterpart": "card"}
        )
        hold_id = hold.json()["command_id"]
        captured = api.post(
            f"{base}/holds/{hold_id}/capture", {"amount": "10.00", "currency": "EUR"}
        )
        assert captured.json()["accounts"][0]["held"] == "20.00"
        assert api.post(f"{base}/holds/{hold_id}/release").status_code == 201
        assert_problem(api.post(f"{base}/holds/{hold_id}/release"), 409, "hold_finished", "hold_id")
        assert api.post(f"{base}/freeze", {"reason": "x"}).status_code == 201
        assert_problem(
            api.post(f"{base}/deposits", {"amount": "1", "currency": "EUR"}), 422, "account_frozen"
        )
        assert api.post(f"{base}/unfreeze", {"reason": "x"}).status_code == 201
        assert api.post(f"{base}/holder", {"holder": "Bea"}).status_code == 201
        adjusted = program.post(
            f"{base}/adjustments", {"amount": "-40.00", "currency": "EUR", "reason": "x"}
        )
        assert adjusted.json()["accounts"][0]["balance"] == "0.00"
        assert api.post(f"{base}/close").status_code == 201
        assert_problem(
            api.post(f"{base}/deposits", {"amount": "1", "currency": "EUR"}), 422, "account_closed"
        )

    def test_a_final_capture_and_an_adjustment_that_names_it(self, api: Api, api_as: As) -> None:
        base, other = f"accounts/{api.open('50')}", api.open("50")
        hold_id = api.post(f"{base}/holds", {"amount": "30.00", "currency": "EUR"}).json()[
            "command_id"
        ]
        capture = {"amount": "10.00", "currency": "EUR", "final": "yes"}
        assert_problem(
            api.post(f"{base}/holds/{hold_id}/capture", capture), 400, "invalid_input", "final"
        )
        captured = api.post(f"{base}/holds/{hold_id}/capture", capture | {"final": True}).json()
        account = captured["accounts"][0]
        assert (account["balance"], account["held"], account["available"]) == (
            "40.00",
            "0.00",
            "40.00",
        )

        program, wrong = api_as("service"), captured["command_id"]
        correction = {"amount": "1.00", "currency": "EUR", "reason": "was 9", "corrects": wrong}
        assert_problem(
            program.post(f"accounts/{other}/adjustments", correction),
            404, "transaction_not_found", "corrects",
        )  # fmt: skip
        adjusted = program.post(f"{base}/adjustments", correction)
        assert adjusted.json()["accounts"][0]["balance"] == "41.00"
        adjustment = adjusted.json()["command_id"]
        undone = program.post("reversals", {"transaction_id": wrong, "reason": "all of it"})
        assert store.corrections_of(wrong) == [
            ("BalanceAdjusted", adjustment),
            ("TransactionReversed", undone.json()["command_id"]),
        ]
        assert store.corrections_of(adjustment) == []

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"amount": 10, "currency": "EUR"}, "amount"),
            ({"amount": 10.5, "currency": "EUR"}, "amount"),
            ({"amount": "-50.00", "currency": "EUR"}, "amount"),
            ({"amount": "1e3", "currency": "EUR"}, "amount"),
            ({"amount": "NaN", "currency": "EUR"}, "amount"),
            ({"amount": "99999999999999999999.99", "currency": "EUR"}, "amount"),
            ({"amount": "1.00", "currency": "eur"}, "currency"),
            ({"amount": "1.00"}, "currency"),
            ({"currency": "EUR"}, "amount"),
            ({"amount": "1.00", "currency": "EUR", "memo": "a\u0000b"}, "memo"),
            ({"amount": "1.00", "currency": "EUR", "memo": "x" * 501}, "memo"),
            ({"amount": "1.00", "currency": "EUR", "memo": 5}, "memo"),
            ({"amount": "1.00", "currency": "EUR", "memo": None}, "memo"),
            ({"amount": "1.00", "currency": "EUR", "counterpart": "=cmd()"}, "counterpart"),
            ({"amount": "1.00", "currency": "EUR", "expected_verison": 5}, "expected_verison"),
            ({"amount": "1.00", "currency": "EUR", "actor": "admin"}, "actor"),
            ({"amount": "1.00", "currency": "EUR", "recorded_at": "2020-01-01T00:00:00Z"}, "recorded_at"),
            ({"amount": "1.00", "currency": "EUR", "effective_at": "2025-10-26T02:30:00"}, "effective_at"),
            ({"amount": "1.00", "currency": "EUR", "effective_at": "2016-12-31T23:59:60Z"}, "effective_at"),
        ],
    )  # fmt: skip
    def test_bad_input_names_the_field_and_changes_nothing(
        self, api: Api, body: dict[str, Any], field: str
    ) -> None:
        account = api.open()
        before = effects()
        for action in ("deposits", "withdrawals"):
            assert_problem(
                api.post(f"accounts/{account}/{action}", body), 400, "invalid_input", field
            )
        assert effects() == before

    def test_half_surrogates_are_refused(self, api: Api) -> None:
        account = api.open()
        raw = '{"amount":"1.00","currency":"EUR","memo":"\\ud800"}'
        answer = api.client.post(
            f"/api/v1/accounts/{account}/deposits", raw, content_type="application/json",
            headers={"Idempotency-Key": "x"},
        )  # fmt: skip
        assert_problem(answer, 400, "invalid_input", "memo")

    @pytest.mark.parametrize(
        ("raw", "kind", "status"),
        [
            ("null", "application/json", 400), ("[]", "application/json", 400), ('"x"', "application/json", 400),
            ("5", "application/json", 400), ("true", "application/json", 400), ("", "application/json", 400),
            ("{", "application/json", 400), ("[" * 100_000, "application/json", 400),
            ('{"a":' * 100_000, "application/json", 400), ('{"amount":NaN}', "application/json", 400),
            ('{"amount":"1","amount":"2"}', "application/json", 400), ("a=1", "text/plain", 415),
            ("a=1", "application/x-www-form-urlencoded", 415), (" " * 3_000_000, "application/json", 400),
        ],
    )  # fmt: skip
    def test_bodies_that_are_no_object_are_refused(
        self, api: Api, raw: str, kind: str, status: int
    ) -> None:
        answer = api.client.post(
            "/api/v1/transfers", raw, content_type=kind, headers={"Idempotency-Key": "x"}
        )
        assert answer.status_code == status, answer.content
        assert answer["Content-Type"].startswith("application/problem+json")

    @pytest.mark.parametrize("key", [None, "", " ", "a\tb", "x" * 256, "ключ"])
    def test_needs_an_idempotency_key(self, api: Api, key: str | None) -> None:
        account = api.open()
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = api.client.post(
            f"/api/v1/accounts/{account}/deposits",
            {"amount": "1", "currency": "EUR"},
            format="json",
            headers=headers,
        )
        assert_problem(answer, 400, "invalid_input", "Idempotency-Key")

    def test_a_transfer_to_oneself_is_refused_in_every_spelling(self, api: Api) -> None:
        account = api.open("100.00")
        before = store.last_position()
        for spelling in (account, account.upper(), f"{{{account}}}", account.replace("-", "")):
            answer = api.post(
                "transfers",
                {
                    "from_account_id": account,
                    "to_account_id": spelling,
                    "amount": "1",
                    "currency": "EUR",
                },
            )
            assert answer.status_code in (400, 422)
        assert store.last_position() == before

    def test_an_unknown_account_is_404(self, api: Api) -> None:
        body = {"amount": "1", "currency": "EUR"}
        assert_problem(api.post(f"accounts/{uuid4()}/deposits", body), 404, "account_not_found")
        assert_problem(api.post("accounts/%00/deposits", body), 400, "invalid_input", "account_id")


class TestIdempotency:
    def test_fifty_parallel_posts_give_fifty_equal_answers(self, api: Api) -> None:
        account, key = api.open(), str(uuid4())
        body = {"amount": "10.00", "currency": "EUR"}

        def post(_: int) -> Any:
            answer = Api("supervisor").post(f"accounts/{account}/deposits", body, key)
            return answer.status_code, answer.content, answer["Location"], answer["ETag"]

        answers = in_threads(50, post)
        assert len(set(answers)) == 1
        assert answers[0][0] == 201
        assert api.get(f"accounts/{account}").json()["balance"] == "10.00"

    def test_spelling_does_not_matter_and_meaning_does(self, api: Api) -> None:
        account, key = api.open(), str(uuid4())
        path = f"/api/v1/accounts/{account}/deposits"
        first = api.post(
            f"accounts/{account}/deposits", {"amount": "10.00", "currency": "EUR"}, key
        )
        for raw in (
            '{ "currency": "\\u0045UR", "amount": "10.0" }',
            '{"amount":"10","currency":"EUR"}',
        ):
            again = api.client.post(
                path, raw, content_type="application/json", headers={"Idempotency-Key": f'"{key}"'}
            )
            assert again.content == first.content
            assert again["Idempotent-Replayed"] == "true"
        other = api.post(f"accounts/{account}/deposits", {"amount": "99", "currency": "EUR"}, key)
        assert_problem(other, 422, "idempotency_key_reused", "Idempotency-Key")

    def test_opening_without_an_id_replays_the_same_account(self, api: Api) -> None:
        key, body = str(uuid4()), {"holder": "Ann", "currency": "EUR"}
        first, again = api.post("accounts", body, key), api.post("accounts", body, key)
        assert (again.content, again["Location"]) == (first.content, first["Location"])

    def test_a_reference_is_unique(self, api: Api) -> None:
        body = {"holder": "Ann", "currency": "EUR", "reference": f"R{uuid4().hex}"}
        assert api.post("accounts", body).status_code == 201
        assert_problem(api.post("accounts", body), 409, "account_already_open", "reference")

    def test_refusals_replay_alike_and_say_so(self, api: Api) -> None:
        account, key = api.open(), str(uuid4())
        body = {"amount": "5", "currency": "EUR"}
        first = api.post(f"accounts/{account}/withdrawals", body, key)
        api.post(f"accounts/{account}/deposits", {"amount": "50", "currency": "EUR"})
        again = api.post(f"accounts/{account}/withdrawals", body, key)
        assert again["Idempotent-Replayed"] == "true"
        same = {"correlation_id": None}
        assert again.json() | same == first.json() | same

    def test_the_outcome_can_be_looked_up_by_key(self, api: Api, api_as: As) -> None:
        account, key = api.open(), str(uuid4())
        done = api.post(f"accounts/{account}/deposits", {"amount": "5", "currency": "EUR"}, key)
        found = api.get(f"commands?idempotency_key={key}")
        assert found.json()["command_id"] == done.json()["command_id"]
        assert found.json()["accounts"] == done.json()["accounts"]
        assert_problem(api_as("service").get(f"commands?idempotency_key={key}"), 404, "not_found")


class TestVersions:
    def test_if_match_guards_and_names_the_current_version(self, api: Api) -> None:
        account = api.open("1.00")
        body = {"amount": "1.00", "currency": "EUR"}
        path = f"accounts/{account}/deposits"
        stale = api.post(path, body, **{"If-Match": '"v1"'})
        assert assert_problem(stale, 412, "version_conflict")["current_version"] == 2
        assert api.post(path, body, **{"If-Match": '"v2"'}).status_code == 201
        assert_problem(
            api.post(path, body, **{"If-Match": "five"}), 400, "invalid_input", "If-Match"
        )

    def test_if_none_match_saves_the_body(self, api: Api) -> None:
        account = api.open()
        first = api.get(f"accounts/{account}")
        again = api.get(f"accounts/{account}", **{"If-None-Match": first["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


class TestDryRun:
    def test_equals_the_later_real_outcome(self, api: Api) -> None:
        account = api.open("10.00")
        before = effects()
        path, body = f"accounts/{account}/withdrawals", {"amount": "4.00", "currency": "EUR"}
        dry = api.post(f"{path}?dry_run=true", body)
        assert (dry.status_code, effects()) == (200, before)
        assert dry.json()["accounts"] == api.post(path, body).json()["accounts"]
        assert_problem(
            api.post(f"{path}?dry_run=true", {"amount": "9", "currency": "EUR"}),
            422, "insufficient_funds",
        )  # fmt: skip
        assert_problem(api.post(f"{path}?dry_run=yes", body), 400, "invalid_input", "dry_run")


class TestBatches:
    def item(self, account: str, amount: str = "1.00", command: str = "Deposit") -> dict[str, Any]:
        return {"command": command, "account_id": account, "amount": amount, "currency": "EUR"}

    def test_five_hundred_with_three_bad(self, api: Api) -> None:
        account, key = api.open(), str(uuid4())
        items = [
            self.item(account)
            if n not in (3, 300, 499)
            else self.item(account, "9999.00", "Withdraw")
            for n in range(500)
        ]
        first = api.post("batches", {"commands": items}, key)
        assert first.status_code == 200
        assert (first.json()["accepted"], first.json()["rejected"]) == (497, 3)
        bad = [n for n, item in enumerate(first.json()["commands"]) if item["status"] == "rejected"]
        assert bad == [3, 300, 499]
        again = api.post("batches", {"commands": items}, key)
        assert again["Idempotent-Replayed"] == "true"
        assert api.get(f"accounts/{account}").json()["balance"] == "497.00"

    def test_atomic_is_all_or_nothing(self, api: Api) -> None:
        account = api.open()
        items = [self.item(account), self.item(account, "9.00", "Withdraw")]
        before = store.last_position()
        refused = api.post("batches", {"atomic": True, "commands": items})
        assert refused.status_code == 422
        assert store.last_position() == before
        items[1]["amount"] = "1.00"
        assert api.post("batches", {"atomic": True, "commands": items}).status_code == 200

    def test_malformed_items_are_all_named_and_nothing_is_done(self, api: Api) -> None:
        account = api.open()
        before = effects()
        items = [self.item(account), self.item(account, "x"), {"command": "Steal"}, {}]
        body = assert_problem(api.post("batches", {"commands": items}), 400, "invalid_input")
        fields = [item["field"] for item in body["errors"]]
        assert fields == ["commands[1].amount", "commands[2].command", "commands[3].command"]
        assert effects() == before

    @pytest.mark.parametrize("commands", [[], [{}] * 1001, "x", None, [5]])
    def test_sizes_are_bounded(self, api: Api, commands: Any) -> None:
        assert_problem(api.post("batches", {"commands": commands}), 400, "invalid_input")


class TestReads:
    def test_state_at_version_position_and_time_agree(self, api: Api) -> None:
        account = api.open("5.00")
        stamp = api.get(f"accounts/{account}/events").json()["data"][1]
        answers = [
            api.get(f"accounts/{account}/state?{query}").json()["account"]["balance"]
            for query in (
                "version=2", f"position={stamp['position']}", f"as_of={stamp['recorded_at']}",
                f"as_of={stamp['recorded_at'].replace('Z', '%2B00:00')}",
            )
        ]  # fmt: skip
        assert answers == ["5.00"] * 4

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("as_off=2025-01-01", "as_off"), ("as_of=2025-06-01T12:00:00+02:00", "as_of"),
            ("as_of=2999-01-01T00:00:00Z", "as_of"), ("as_of=yesterday", "as_of"), ("version=0", "version"),
            ("version=-1", "version"), ("version=1&position=1", "position"), ("version=1e3", "version"),
            ("version=99999999999999999999", "version"), ("as_of=%00", "as_of"), ("version=1&version=2", "version"),
        ],
    )  # fmt: skip
    def test_a_misspelt_moment_is_never_todays_balance(
        self, api: Api, query: str, field: str
    ) -> None:
        account = api.open()
        assert_problem(api.get(f"accounts/{account}/state?{query}"), 400, "invalid_input", field)

    def test_difference_between_two_moments(self, api: Api) -> None:
        account = api.open("5.00")
        body = api.get(f"accounts/{account}/difference?from_version=1&to_version=2").json()
        assert {"field": "balance", "before": "0.00", "after": "5.00"} in body["changes"]
        assert [event["version"] for event in body["events"]] == [2]

    def test_pages_give_every_event_once(self, api: Api) -> None:
        account = api.open()
        items = [
            {"command": "Deposit", "account_id": account, "amount": "1", "currency": "EUR"}
        ] * 129
        api.post("batches", {"commands": items})
        seen: list[int] = []
        path = f"/api/v1/accounts/{account}/events?limit=50"
        while path:
            answer = api.client.get(path, headers={"Read-Reason": "case"})
            seen += [event["version"] for event in answer.json()["data"]]
            link = answer.headers.get("Link", "")
            path = link[1 : link.index(">")] if link else ""
        assert seen == list(range(1, 131))

    def test_the_feed_follows_the_log(self, api: Api) -> None:
        start = store.last_position()
        account = api.open("1.00")
        events = api.get(f"events?after={start}").json()["data"]
        assert [event["position"] for event in events] == [start + 1, start + 2]
        assert events[0]["account_id"] == account

    def test_the_trial_balance_sums_to_zero(self, api: Api) -> None:
        api.open("1.00")
        for row in api.get("trial-balance").json()["currencies"]:
            assert float(row["sum"]) == 0, row


class TestProblems:
    def test_every_error_has_a_status_and_a_page(self, api: Api) -> None:
        def tree(cls: type[errors.LedgerError]) -> list[type[errors.LedgerError]]:
            return [cls, *(leaf for sub in cls.__subclasses__() for leaf in tree(sub))]

        for cls in tree(errors.LedgerError)[1:]:
            assert any(parent in STATUS for parent in cls.__mro__), f"add {cls.__name__} to STATUS"
            assert 400 <= status_of(cls("x")) < 600
        for code in DOCUMENTED:
            assert api.client.get(f"/problems/{code}").status_code == 200

    def test_404_405_and_500_are_problems(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        assert_problem(api.get("nothing-here"), 404, "not_found")
        assert_problem(
            api.client.put("/api/v1/transfers", {}, format="json"), 405, "method_not_allowed"
        )
        account = api.open()
        monkeypatch.setattr(store, "read_stream", lambda *_, **__: 1 / 0)
        assert_problem(api.get(f"accounts/{account}/events"), 500, "server_error")

    def test_an_error_after_the_commit_keeps_the_effect_findable(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ledger.api import views

        account, key = api.open(), str(uuid4())
        body = {"amount": "5", "currency": "EUR"}
        with monkeypatch.context() as patch:
            patch.setattr(views, "outcome_response", lambda *_: 1 / 0)
            assert api.post(f"accounts/{account}/deposits", body, key).status_code == 500
        again = api.post(f"accounts/{account}/deposits", body, key)
        assert (again.status_code, again["Idempotent-Replayed"]) == (201, "true")
        assert api.get(f"accounts/{account}").json()["balance"] == "5.00"


class TestOpenApi:
    def test_document_is_valid_and_names_every_route(self, api: Api) -> None:
        answer = api.client.get("/api/v1/schema/?format=json")
        document = json.loads(answer.content)
        assert document["openapi"].startswith("3.1")
        validate(document)
        assert len(document["paths"]) >= 22
        ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
        assert len(ids) == len(set(ids))


class TestAuthentication:
    def test_without_a_sign_in_everything_is_401(self, api_as: As) -> None:
        anonymous = api_as("")
        for answer in (
            anonymous.get("accounts"),
            anonymous.post("transfers", {}),
            anonymous.get("events"),
        ):
            body = assert_problem(answer, 401, "not_authenticated")
            assert "Bearer" in answer["WWW-Authenticate"], body

    def test_a_token_opens_and_a_revoked_one_does_not(self, api_as: As) -> None:
        from knox.models import get_token_model

        user = user_with("service")
        row, token = get_token_model().objects.create(user=user)
        anonymous = api_as("")
        headers = {"Authorization": f"Bearer {token}"}
        assert anonymous.get("accounts?limit=1", **headers).status_code == 200
        assert token not in str(row.__dict__)
        for strange in ("", "x", "\u00ff", "a b", "x" * 5000, token[:-1], token + "0"):
            headers_of = {"Authorization": f"Bearer {strange}"}
            assert anonymous.get("accounts", **headers_of).status_code == 401, strange
        row.delete()
        deadline = time.monotonic() + 2  # it is looked up again every second
        while (answer := anonymous.get("accounts", **headers)).status_code == 200:
            assert time.monotonic() < deadline
        assert_problem(answer, 401, "authentication_failed")

    def test_a_token_speaks_alone_and_no_cookie_beside_it(self, api: Api) -> None:
        from django.test import Client
        from knox.models import get_token_model

        client = Client(enforce_csrf_checks=True)
        client.force_login(user_with("supervisor"))
        _, token = get_token_model().objects.create(user=user_with("auditor"))
        body = {"holder": "Ann", "currency": "EUR"}

        def post(authorization: str) -> Any:
            return client.post(
                "/api/v1/accounts", json.dumps(body), content_type="application/json",
                headers={"Authorization": authorization, "Idempotency-Key": str(uuid4())},
            )  # fmt: skip

        assert_problem(post(f"Bearer {token}"), 403, "forbidden")
        for wrong in ("Bearer wrong", "bearer ", "BEARER x y"):
            assert_problem(post(wrong), 401, "authentication_failed")
        headers = {"Authorization": f"Bearer {token}"}
        answer = client.get("/api/v1/accounts?limit=1", headers=headers)
        assert answer.status_code == 200
        assert answer["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert not answer.cookies
        assert_problem(client.get("/api/v1/nothing", headers=headers), 404, "not_found")

    def test_a_session_needs_the_csrf_token(self, api: Api) -> None:
        from django.test import Client

        account = api.open()
        client = Client(enforce_csrf_checks=True)
        client.force_login(user_with("teller"))
        for kind in ("application/json", "text/plain"):
            answer = client.post(
                f"/api/v1/accounts/{account}/deposits", '{"amount":"1","currency":"EUR"}',
                content_type=kind, headers={"Idempotency-Key": "x"},
            )  # fmt: skip
            assert answer.status_code == 403


MATRIX: dict[str, tuple[str, str, Any]] = {
    "open": ("post", "accounts", {"holder": "x", "currency": "EUR"}),
    "deposit": ("post", "accounts/{a}/deposits", {"amount": "1", "currency": "EUR"}),
    "withdraw": ("post", "accounts/{a}/withdrawals", {"amount": "1", "currency": "EUR"}),
    "transfer": ("post", "transfers", {"from_account_id": "{a}", "to_account_id": "{b}", "amount": "1", "currency": "EUR"}),
    "hold": ("post", "accounts/{a}/holds", {"amount": "1", "currency": "EUR"}),
    "adjust": ("post", "accounts/{a}/adjustments", {"amount": "1", "currency": "EUR", "reason": "x"}),
    "limit": ("post", "accounts/{a}/overdraft-limit", {"limit": "1", "currency": "EUR"}),
    "backdate": ("post", "accounts/{a}/deposits", {"amount": "1", "currency": "EUR", "effective_at": "2025-01-01T00:00:00Z", "memo": "late"}),
    "freeze": ("post", "accounts/{a}/freeze", {"reason": "x"}),
    "unfreeze": ("post", "accounts/{a}/unfreeze", {"reason": "x"}),
    "batch": ("post", "batches", {"commands": [{"command": "Deposit", "account_id": "{a}", "amount": "1", "currency": "EUR"}]}),
    "read": ("get", "accounts/{a}", None),
    "events": ("get", "accounts/{a}/events", None),
    "state": ("get", "accounts/{a}/state", None),
    "log": ("get", "events?limit=1", None),
    "trial": ("get", "trial-balance", None),
}  # fmt: skip
TELLER = {"open", "deposit", "withdraw", "transfer", "hold", "batch", "read", "events", "state"}
ALLOWED = {
    "teller": TELLER,
    "supervisor": set(MATRIX) - {"adjust", "reverse"},  # these need a second person
    "service": set(MATRIX),
    "auditor": {"read", "events", "state", "log", "trial"},
    "customer": set(),
}


class TestRoles:
    @pytest.mark.parametrize("role", sorted(ALLOWED))
    def test_matrix(self, api: Api, api_as: As, role: str) -> None:
        account, other = api.open("100.00"), api.open()
        caller = api_as(role)
        for name, (method, path, body) in MATRIX.items():
            filled = json.loads(json.dumps(body).replace("{a}", account).replace("{b}", other))
            before = store.last_position()
            target = path.replace("{a}", account)
            answer = caller.post(target, filled) if method == "post" else caller.get(target)
            if name in ALLOWED[role]:
                assert answer.status_code in (200, 201), (name, answer.content)
            else:
                assert answer.status_code in (403, 404), (name, answer.content)
                assert store.last_position() == before

    def test_customers_see_own_accounts_only(self, api: Api, api_as: As) -> None:
        customer = api_as("customer")
        own = api.open("50.00", owner="test-customer")
        foreign = api.open("50.00")
        unknown = str(uuid4())
        for path in ("", "/events", "/state", "/activity", "/difference?from_version=1"):
            assert customer.get(f"accounts/{own}{path}").status_code == 200, path
            answers = [customer.get(f"accounts/{item}{path}") for item in (foreign, unknown)]
            bodies = [
                answer.content.replace(item.encode(), b"ID")
                for answer, item in zip(answers, (foreign, unknown), strict=True)
            ]
            strip = [json.loads(body) | {"correlation_id": ""} for body in bodies]
            assert strip[0] == strip[1]
            assert answers[0].status_code == 404
        listed = customer.get("accounts?limit=1000").json()["data"]
        assert own in [item["id"] for item in listed]
        assert all(item["owner"] == "test-customer" for item in listed)
        assert customer.get("accounts?holder=Test&limit=1000").json()["data"] == listed

    def test_customers_transfer_from_own_accounts_only(self, api: Api, api_as: As) -> None:
        customer = api_as("customer")
        own = api.open("50.00", owner="test-customer")
        foreign = api.open("50.00")

        def transfer(payer: str, payee: str) -> Any:
            return customer.post(
                "transfers",
                {
                    "from_account_id": payer,
                    "to_account_id": payee,
                    "amount": "1",
                    "currency": "EUR",
                },
            )

        done = transfer(own, foreign)
        assert done.status_code == 201
        assert [item["id"] for item in done.json()["accounts"]] == [own]
        assert foreign not in done.content.decode()
        found = customer.get(f"commands/{done.json()['command_id']}")
        assert foreign not in found.content.decode()
        assert_problem(transfer(foreign, own), 404, "not_found")
        api.post(f"accounts/{foreign}/freeze", {"reason": "secret"})
        assert_problem(transfer(own, foreign), 404, "account_not_found")
        dollars = api.open(currency="USD")
        refused = transfer(own, dollars)
        assert_problem(refused, 404, "account_not_found")
        assert (
            "USD" not in customer.get(refused["Location"].removeprefix("/api/v1/")).content.decode()
        )

    def test_customers_learn_nothing_from_batches_either(self, api: Api, api_as: As) -> None:
        own, foreign = api.open("50.00", owner="test-customer"), api.open("77.00")
        dollars = api.open(currency="USD")
        items = [
            {
                "command": "Transfer",
                "from_account_id": own,
                "to_account_id": to,
                "amount": "1",
                "currency": "EUR",
            }
            for to in (foreign, dollars)
        ]
        answer = api_as("customer").post("batches", {"commands": items})
        assert (answer.json()["accepted"], answer.json()["rejected"]) == (1, 1)
        for secret in ("78.00", foreign, "USD"):
            assert secret not in answer.content.decode()


def test_every_api_route_refuses_strangers(api_as: As) -> None:
    """A crawl: no route answers without a sign-in but the documentation."""
    anonymous = api_as("")
    public = {"schema", "api-docs"}
    routes = [
        pattern
        for resolver in get_resolver().url_patterns
        for pattern in getattr(resolver, "url_patterns", [resolver])
        if str(getattr(pattern, "name", "")).startswith("api-")
    ]
    assert len(routes) >= 24
    for route in routes:
        if route.name in public:
            continue
        path = str(route.pattern)
        for name in ("account_id", "hold_id", "command_id"):
            path = path.replace(f"<str:{name}>", str(uuid4()))
        for answer in (anonymous.get(path), anonymous.post(path, {})):
            assert answer.status_code in (401, 405), (path, answer.status_code)
