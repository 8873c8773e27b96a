"""Files in, balances reproduced: generated, real, twice, broken, and beside live traffic."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from ledger import history, imports, store
from ledger.api.serializers import account_id_of_reference
from ledger.domain import commands as c
from ledger.errors import InvalidInputError
from ledger.imports import Options
from ledger.models import ImportJob
from tests.conftest import Sender, in_threads, user_with

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "berka"
HEADER = "trans_id,account_id,date,type,operation,amount,balance\n"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the real bank files are not here")


def options(**changes: Any) -> Options:
    return Options(**{"source": f"s{uuid4().hex[:10]}", **changes})


def run(text: str, chosen: Options) -> imports.Result:
    return imports.run(imports.parse(text, chosen), chosen, actor="tester")


def balance(chosen: Options, account: str) -> int:
    found = account_id_of_reference(f"{chosen.source}:{account}")
    return history.current(found)[0].balance


def problems(text: str, **changes: Any) -> list[tuple[int, str]]:
    parsed = imports.parse(text, options(**changes))
    return [(error.line, error.field) for error in parsed.errors]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "generated.csv"
    call_command("generate_transactions", path, rows=2000, accounts=25, seed=7)
    return path


class TestGenerated:
    def test_every_recorded_balance_is_reproduced(self, live_db: None, generated: Path) -> None:
        chosen = options()
        text = generated.read_text()
        result = run(text, chosen)
        assert (result.accepted, result.errors_total, result.accounts_opened) == (2000, 0, 25)
        found = imports.verify_balances(imports.parse(text, chosen), chosen)
        assert (found.rows_checked, found.rows_equal, found.rows_missing) == (2000, 2000, 0)

    def test_twice_has_one_effect(self, live_db: None, generated: Path) -> None:
        chosen = options()
        run(generated.read_text(), chosen)
        before = store.last_position()
        again = run(generated.read_text(), chosen)
        assert (again.accepted, again.already_imported) == (0, 2000)
        assert store.last_position() == before

    def test_at_the_same_time_from_two_workers_has_one_effect(
        self, live_db: None, generated: Path
    ) -> None:
        chosen = options()
        results = in_threads(2, lambda _: run(generated.read_text(), chosen))
        assert all(result.errors_total == 0 for result in results), results
        found = imports.verify_balances(imports.parse(generated.read_text(), chosen), chosen)
        assert found.rows_equal == 2000

    def test_command_prints_json_and_fails_on_a_changed_balance(
        self, live_db: None, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = list(csv.reader(io.StringIO(generated.read_text()), delimiter=";"))
        column = rows[0].index("balance")
        rows[1000][column] = "1.23"
        rows[1000][rows[0].index("account_id")] = rows[1000][1]
        bad = tmp_path / "bad.csv"
        with bad.open("w", newline="") as file:
            csv.writer(file, delimiter=";").writerows(rows)
        source = options().source
        with pytest.raises(SystemExit):
            call_command("import_transactions", bad, source=source, verify_balance=True, json=True)
        answer = json.loads(capsys.readouterr().out)
        assert answer["result"]["accepted"] == 2000
        lines = [item["line"] for item in answer["verification"]["contradictions"]]
        assert 1001 in lines

    def test_same_seed_same_bytes(self, tmp_path: Path, generated: Path) -> None:
        again = tmp_path / "again.csv"
        call_command("generate_transactions", again, rows=2000, accounts=25, seed=7)
        assert again.read_bytes() == generated.read_bytes()


@needs_data
class TestRealBankData:
    """PKDD'99: the bank's own balances; the oracle names the rows where its file contradicts itself."""

    def oracle(self, name: str) -> dict[str, str]:
        with (DATA / "oracle" / f"chain_{name}.csv").open(newline="") as file:
            return {row["trans_id"]: row["residual"] for row in csv.DictReader(file, delimiter=";")}

    @pytest.mark.parametrize(
        ("name", "file_name"),
        [("trans_test", "trans_test.csv"), ("1993-01_1994-03", "trans_1993-01_1994-03.asc")],
    )
    def test_every_consistent_balance_is_reproduced_and_the_others_named(
        self, live_db: None, name: str, file_name: str
    ) -> None:
        oracle = self.oracle(name)
        chosen = options(currency="CZK", overdraft_limit=2_000_000)
        text = (DATA / file_name).read_text(encoding="ascii")
        lines = text.splitlines()
        kept = [lines[0], *(line for line in lines[1:] if line.split(";")[0] in oracle)]
        text = "\n".join(kept)
        parsed = imports.parse(text, chosen)
        assert parsed.errors == []
        result = imports.run(parsed, chosen, actor="tester")
        assert (result.accepted, result.errors_total) == (len(oracle), 0)
        found = imports.verify_balances(parsed, chosen)
        contradictory = sum(residual != "0.00" for residual in oracle.values())
        assert found.rows_checked == len(oracle)
        assert found.rows_consistent == len(oracle) - contradictory
        assert len(found.contradictions) == contradictory
        assert {item.residual for item in found.contradictions} == {"0.10", "-0.10"}

    def test_the_cut_line_is_named(self, live_db: None) -> None:
        text = (DATA / "trans_1993-01_1994-03.asc").read_text(encoding="ascii")
        parsed = imports.parse(text, options(currency="CZK"))
        [error] = parsed.errors
        assert error.line == 49104
        assert len(parsed.rows) == 49102


class TestIdentity:
    ROWS = "account_id,date,type,amount\n" + "7,2025-08-03,credit,20.00\n" * 2

    def test_two_honest_rows_that_look_alike_are_two(self, live_db: None) -> None:
        chosen = options()
        assert run(self.ROWS, chosen).accepted == 2
        again = run(self.ROWS, chosen)
        assert (again.accepted, again.already_imported) == (0, 2)
        more = run(self.ROWS + "7,2025-08-03,credit,20.00\n", chosen)
        assert (more.accepted, more.already_imported) == (1, 2)
        assert balance(chosen, "7") == 6000

    def test_overlapping_files_add_only_what_is_new(self, live_db: None) -> None:
        chosen = options()
        rows = [f"{n},1,2025-08-{n:02d},credit,e,1.00,\n" for n in range(1, 16)]
        assert run(HEADER + "".join(rows[:10]), chosen).accepted == 10
        second = run(HEADER + "".join(rows[4:]), chosen)
        assert (second.accepted, second.already_imported) == (5, 6)

    def test_identifiers_are_never_numbers(self, live_db: None) -> None:
        chosen = options()
        rows = "1,0010,250101,credit,,1.00,\n2,10,250101,credit,,2.00,\n3,219E01,250101,credit,,3.00,\n"
        assert run(HEADER + rows, chosen).accounts_opened == 3
        assert [balance(chosen, name) for name in ("0010", "10", "219E01")] == [100, 200, 300]
        assert problems(HEADER + "1,1.91431E+18,250101,credit,,1.00,\n") == [(2, "account_id")]

    def test_a_transaction_id_twice_is_an_error(self) -> None:
        row = "1,1,250101,credit,,1.00,\n"
        assert problems(HEADER + row + row) == [(3, "trans_id")]


class TestBadFiles:
    @pytest.mark.parametrize(
        ("row", "field"),
        [
            ("1,1,250101,gift,,1.00,", "type"),
            ("1,1,250199,credit,,1.00,", "date"),
            ("1,1,2025-02-30,credit,,1.00,", "date"),
            ("1,1,2016-12-31T23:59:60Z,credit,,1.00,", "date"),
            ("1,1,250101,credit,,,", "amount"),
            ("1,,250101,credit,,1.00,", "account_id"),
            ("1,1,250101,credit,,1.00", "line"),
            ("1,1,250101,credit,,1.00,x", "balance"),
        ],
    )
    def test_name_line_and_field(self, row: str, field: str) -> None:
        good = "9,1,250101,credit,,1.00,1.00\n"
        assert problems(HEADER + good + row + "\n") == [(3, field)]

    @pytest.mark.parametrize(
        "amount",
        ['"-236,48"', '"1.488,69"', "-1.000", "31.422", '"1,000.00"', "1'000.50", '"1 000,00"',
         "1\u00a0000.00", "(12.50)", "12.50-", '"12,5"', "€ 10", "NaN", "1e3", "0.00"],
    )  # fmt: skip
    def test_never_guess_a_number(self, amount: str) -> None:
        assert problems(HEADER + f"1,1,250101,credit,,{amount},\n") == [(2, "amount")]

    def test_line_ends_order_delimiter_and_mark_do_not_matter(self, live_db: None) -> None:
        for text in (
            "account_id,date,type,amount\n1,250101,credit,1.00\n",
            "\ufeffaccount_id,date,type,amount\n1,250101,credit,1.00\n",
            "account_id;date;type;amount\r\n1;250101;credit;1.00\r\n",
            "account_id\tdate\ttype\tamount\r1\t250101\tcredit\t1.00",
            '"Amount", "type" ,"DATE","account_id"\n1.00,credit,250101,1\n\n',
        ):
            parsed = imports.parse(imports.decode(text.encode()), options())
            assert [(row.amount, row.reference.partition(":")[2]) for row in parsed.rows] == [
                (100, "1")
            ]

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("account_id,date\n".encode("utf-16"), "UTF-16"),
            ("account_id,date,type,amount\nMüller,1,1,1\n".encode("cp1252"), "line 2 is not UTF-8"),
            (b"a\x00b", "NUL"),
            (b"", "empty"),
            (b"account_id,date\n", "lacks the columns type, amount"),
            (b"account_id,date,type,amount,amount\n", "twice"),
            (b"account_id,date,type,amount,ammount\n", "ammount"),
        ],
    )
    def test_say_what_is_wrong_with_the_whole(self, content: bytes, words: str) -> None:
        with pytest.raises(InvalidInputError, match=words):
            imports.parse(imports.decode(content), options())

    def test_write_nothing_and_list_every_error_in_one_go(self, live_db: None) -> None:
        chosen = options()
        rows = [f"{n},1,250101,credit,,1.00,\n" for n in range(1, 1001)]
        rows[616] = "617,1,250101,credit,,1.0x,\n"
        rows[617] = "618,1,250101,withdrawal,,99999.00,\n"
        before = store.last_position()
        result = run(HEADER + "".join(rows), chosen)
        assert [(error.line, error.field) for error in result.errors] == [
            (618, "amount"),
            (619, "amount"),
        ]
        assert store.last_position() == before
        rows[616], rows[617] = "617,1,250101,credit,,1.00,\n", "618,1,250101,withdrawal,,1.00,\n"
        assert run(HEADER + "".join(rows), chosen).accepted == 1000
        assert balance(chosen, "1") == 99800

    def test_can_be_skipped(self, live_db: None) -> None:
        chosen = options(skip_bad_rows=True)
        text = (
            HEADER
            + "1,1,250101,credit,,1.00,\n2,1,250101,gift,,1.00,\n3,1,250101,withdrawal,,9.00,\n"
        )
        result = run(text, chosen)
        assert (result.accepted, result.errors_total) == (1, 2)

    def test_command_says_so_in_one_line(self, live_db: None, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="cannot read"):
            call_command("import_transactions", tmp_path / "none.csv")


class TestLiveTraffic:
    def test_goes_on_beside_an_import(self, live_db: None, send: Sender, generated: Path) -> None:
        chosen = options()
        text = generated.read_text()
        parsed = imports.parse(text, chosen)
        ids = sorted({row.account_id for row in parsed.rows})

        def work(number: int) -> Any:
            if number == 0:
                return imports.run(parsed, chosen, actor="tester")
            done = 0
            for n in range(60):
                outcome = send(c.Deposit(account_id=ids[n % len(ids)], amount=1, currency="EUR"))
                done += outcome.error is None
            return done

        result, *deposits = in_threads(4, work)
        assert (result.accepted, result.errors_total) == (2000, 0)
        file_total = sum(row.amount for row in parsed.rows)
        assert sum(history.current(item)[0].balance for item in ids) == file_total + sum(deposits)


class TestJob:
    def test_runs_once_however_often_it_is_started(self, live_db: None, generated: Path) -> None:
        from ledger import import_jobs

        job = ImportJob.objects.create(
            pk=uuid4(), file_name="x.csv", content=generated.read_bytes(), created_by=user_with("supervisor"),
            options={"source": options().source, "currency": "EUR", "overdraft_limit": "0", "skip_bad_rows": False},
        )  # fmt: skip
        import_jobs.run(str(job.pk))
        job.refresh_from_db()
        assert job.status == "previewed"
        import_jobs.start(job)
        assert in_threads(2, lambda _: import_jobs.run(str(job.pk))) == [None, None]
        job.refresh_from_db()
        assert job.status == "done"
        assert job.result["verification"]["rows_equal"] == 2000
        before = store.last_position()
        ImportJob.objects.filter(pk=job.pk).update(status="running")
        import_jobs.run(str(job.pk))
        assert store.last_position() == before
