"""Evidence bundles: complete, deterministic, checked offline, and every change of them noticed."""

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from audit import evidence, notes, proofs, seals, verify
from ledger import csvs, history, statements, store
from ledger.domain import commands as c
from ledger.errors import BusyError, InvalidInputError, NotFoundError
from tests.conftest import Api, Sender

NASTY = '=HYPERLINK("http://evil","x")'


@pytest.fixture
def key(settings: Any, tmp_path: Path) -> notes.Signer:
    path = tmp_path / "seal.key"
    path.write_text(notes.Signer.generate("example.org/ledger") + "\n")
    settings.LEDGER_SEAL_KEYS = [str(path)]
    return notes.Signer(path.read_text())


@pytest.fixture
def account(send_own: Sender, key: notes.Signer) -> str:
    """With every kind of movement, among the events of others, sealed."""
    account = send_own.open()
    other = send_own.open(balance=500)
    send_own(
        c.Deposit(
            account_id=account, amount=100_000, currency="EUR", memo=NASTY, counterpart="cash"
        )
    )
    taken = send_own(c.Withdraw(account_id=account, amount=1_250, currency="EUR", memo="a\u2028b"))
    send_own(c.Transfer(from_account_id=account, to_account_id=other, amount=700, currency="EUR"))
    send_own(c.Transfer(from_account_id=other, to_account_id=account, amount=5, currency="EUR"))
    hold = send_own(c.PlaceHold(account_id=account, amount=900, currency="EUR"))
    send_own(c.CaptureHold(account_id=account, hold_id=hold.command_id, amount=400))
    send_own(c.ReverseTransaction(transaction_id=taken.command_id, reason="wrong account"))
    send_own(c.AdjustBalance(account_id=account, amount=-3, currency="EUR", reason="rounding"))
    seals.seal()
    return account


def made(account: str, **options: Any) -> bytes:
    asked = {"first": None, "last": None, "size": None} | options
    return evidence.bundle(*evidence.scope_of(account, **asked))


def files_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes]) -> bytes:
    """A zip of these files with a manifest that agrees with them: what a forger would make."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name != "manifest.json"
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return file.getvalue()


def check(content: bytes, key: notes.Signer) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return verify.check_bundle(archive, verify.read_key(key.public_text))


class TestBundle:
    def test_holds_everything_and_verifies_with_its_own_verifier_alone(
        self, account: str, key: notes.Signer, tmp_path: Path
    ) -> None:
        content = made(account)
        assert set(files_of(content)) == {
            "README.txt", "events.csv", "events.jsonl", "manifest.json", "public_keys.txt",
            "seal.txt", "statement.csv", "statement.html", "statement.json", "statement.pdf",
            "verify.py",
        }  # fmt: skip
        (tmp_path / "bundle.zip").write_bytes(content)
        (tmp_path / "verify.py").write_bytes(files_of(content)["verify.py"])
        done = subprocess.run(
            [sys.executable, "-I", "verify.py", "bundle.zip", "--key", key.public_text],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        version = store.head_version(account)
        assert f"all {version} events of account {account} from version 1" in done.stdout

    def test_the_same_question_gives_the_same_bytes_though_the_log_goes_on(
        self, account: str, send_own: Sender
    ) -> None:
        scope, seal = evidence.scope_of(account, first=None, last=None, size=None)
        first = evidence.bundle(scope, seal)
        send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
        seals.seal()
        again = made(account, first=scope.first, last=scope.last, size=scope.seal)
        assert again == first
        assert made(account) != first

    def test_a_part_of_the_history_opens_with_the_balance_before_it(
        self, account: str, key: notes.Signer
    ) -> None:
        content = made(account, first=4, last=6)
        figures = json.loads(files_of(content)["statement.json"])
        before = history.fold_to(account, 3).balance
        assert figures["opening"] == f"{before / 100:.2f}"
        assert "from version 4 to 6" in check(content, key)[1]

    def test_of_the_whole_log_leads_from_one_trial_balance_to_the_other(
        self, account: str, key: notes.Signer
    ) -> None:
        content = made("", first=3)
        files = files_of(content)
        assert json.loads(files["trial_balance_before.json"])["position"] == 2
        assert len(files["accounts.csv"].splitlines()) == 3
        assert "from position 3" in check(content, key)[1]

    def test_asks_for_what_is_there_and_sealed(
        self, account: str, send_own: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end = store.head_version(account)
        for first, last in ((0, 1), (2, 1), (1, end + 1)):
            with pytest.raises(InvalidInputError, match="are not there"):
                made(account, first=first, last=last)
        send_own(c.Deposit(account_id=account, amount=1, currency="EUR"))
        with pytest.raises(BusyError, match="ask again soon"):
            made(account, last=end + 1)
        with pytest.raises(NotFoundError):
            made("018f0000-0000-7000-8000-000000000000")
        with pytest.raises(NotFoundError, match="no seal of 3"):
            made(account, size=3)
        monkeypatch.setattr(evidence, "EVENTS_MAX", 2)
        with pytest.raises(InvalidInputError, match="ask for fewer"):
            made(account)

    def test_spreadsheets_run_nothing(self, account: str) -> None:
        files = files_of(made(account))
        rows = list(csv.DictReader(io.StringIO(files["statement.csv"].decode(), newline="")))
        assert NASTY not in [row["note"] for row in rows]
        assert f"'{NASTY}" in [row["note"] for row in rows]
        for name in ("statement.csv", "events.csv"):
            for row in csv.reader(io.StringIO(files[name].decode(), newline="")):
                for cell in row:
                    is_amount = re.fullmatch(r"-?\d+\.\d\d", cell)
                    assert is_amount or not cell.lstrip().startswith(tuple("=+-@\t\r")), cell

    def test_pages_run_nothing(self, account: str) -> None:
        page = files_of(made(account))["statement.html"].decode()
        assert "<script" not in page
        assert "&quot;http://evil&quot;" in page

    def test_the_pdf_says_what_the_page_says(self, account: str) -> None:
        content = files_of(made(account))["statement.pdf"]
        assert content.startswith(b"%PDF-1.7")
        streams = re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL)
        plain = b"".join(zlib.decompress(item) for item in streams if item[:1] == b"x")
        assert b"/StructTreeRoot" in plain  # tagged: screen readers can read it


class TestTampering:
    """Each change is made with a manifest that agrees with it."""

    def wrong(self, files: dict[str, bytes], key: notes.Signer) -> str:
        with pytest.raises(verify.Wrong) as caught:
            check(packed(files), key)
        return str(caught.value)

    def test_one_changed_byte_of_any_file_without_the_manifest(
        self, account: str, key: notes.Signer
    ) -> None:
        honest = files_of(made(account))
        for name in honest.keys() - {"manifest.json"}:
            files = honest | {name: honest[name][:-1] + bytes([honest[name][-1] ^ 1])}
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for entry, content in files.items():
                    archive.writestr(entry, content)
            with pytest.raises(verify.Wrong, match=re.escape(name)):
                check(file.getvalue(), key)

    def test_a_changed_amount_an_event_left_out_and_one_of_another_account(
        self, account: str, key: notes.Signer, send_own: Sender
    ) -> None:
        honest = files_of(made(account))
        lines = honest["events.jsonl"].split(b"\n")[:-1]

        def with_lines(changed: list[bytes]) -> dict[str, bytes]:
            return honest | {"events.jsonl": b"\n".join(changed) + b"\n"}

        assert "is not in the sealed log" in self.wrong(
            with_lines([line.replace(b"100000", b"900000") for line in lines]), key
        )
        assert "version 3 is missing" in self.wrong(with_lines(lines[:2] + lines[3:]), key)
        assert "is missing" in self.wrong(with_lines([lines[0], lines[0], *lines[2:]]), key)
        assert f"version {len(lines)} is missing" in self.wrong(with_lines(lines[:-1]), key)
        log = files_of(made(""))["events.jsonl"].split(b"\n")
        [other] = [
            line for line in log[:-1]
            if json.loads(json.loads(line)["content"])["version"] == 1 and line not in lines
        ]  # fmt: skip
        assert "is of another account" in self.wrong(with_lines([other, *lines[1:]]), key)

    @pytest.mark.parametrize(
        ("name", "old", "new", "said"),
        [
            ("statement.json", b'"closing": "', b'"closing": "1', "closing balance"),
            ("statement.json", b'"came_in": "', b'"came_in": "1', "totals"),
            ("statement.json", b'"opening": "0.00"', b'"opening": "1.00"', "not with zero"),
            ("events.csv", b"MoneyWithdrawn", b"MoneyDeposited", "type of event"),
            ("events.csv", b'""amount"":700', b'""amount"":701', "payload of event"),
            ("seal.txt", b"\n", b"\n1", "signature"),
            ("manifest.json", b'"last": ', b'"last": 1', "is missing"),
            ("manifest.json", b'"seal": ', b'"seal": 9', "the manifest says"),
        ],
    )
    def test_figures_table_and_seal(
        self, account: str, key: notes.Signer, name: str, old: bytes, new: bytes, said: str
    ) -> None:
        honest = files_of(made(account))
        assert old in honest[name]
        changed = honest | {name: honest[name].replace(old, new, 1)}
        assert said in self.wrong(changed, key)

    def test_a_trial_balance(self, account: str, key: notes.Signer) -> None:
        honest = files_of(made(""))
        for name in ("trial_balance_before.json", "trial_balance_after.json"):
            found = json.loads(honest[name])
            if not found["currencies"]:
                continue
            found["currencies"][0]["accounts"] += "1"
            assert "trial balance" in self.wrong(honest | {name: json.dumps(found).encode()}, key)

    def test_files_added_or_removed(self, account: str, key: notes.Signer) -> None:
        content = made(account)
        file = io.BytesIO(content)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("more.txt", "x")
        with pytest.raises(verify.Wrong, match="does not hold the files"):
            check(file.getvalue(), key)

    def test_another_key(self, account: str) -> None:
        other = notes.Signer(notes.Signer.generate("example.org/ledger"))
        with pytest.raises(verify.Wrong, match="not signed"):
            check(made(account), other)

    @pytest.mark.parametrize(
        "origin", ["/commands", "/reads", "/epoch-2/commands", "/epoch-x", "2"]
    )
    def test_a_seal_of_another_log(self, key: notes.Signer, origin: str) -> None:
        """Signed with the same key, in whichever epoch."""

        def read(origin: str) -> int:
            checkpoint = notes.Checkpoint(origin=origin, size=3, root=b"r" * 32)
            public = verify.read_key(key.public_text)
            return verify.read_note(notes.sign(checkpoint, [key]), public, "the seal")[0]

        with pytest.raises(verify.Wrong, match="of another log"):
            read(key.name + origin)
        assert read(key.name) == read(key.name + "/epoch-2") == 3

    def test_the_wrong_kind_of_file_is_said_to_be_unreadable(self, tmp_path: Path) -> None:
        for number, content in enumerate((b"PK\x05\x06" + b"\0" * 18, b"no", b"[]", b"\xff")):
            path = tmp_path / f"{number}.zip"
            path.write_bytes(content)
            assert verify.main([str(path)]) == 2


class TestRest:
    def test_gives_the_bundle_and_where_it_will_be_found_again(
        self, account: str, settings: Any, key: notes.Signer
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        api = Api("auditor")
        answer = api.get(f"accounts/{account}/evidence")
        assert answer.status_code == 200, answer.content
        again = api.get(answer["Content-Location"].removeprefix("/api/v1/"))
        assert again.content == answer.content
        assert answer["Content-Type"] == "application/zip"
        check(answer.content, key)
        whole = api.get("evidence?from=2")
        check(whole.content, key)
        assert api.get(whole["Content-Location"].removeprefix("/api/v1/")).content == whole.content

    def test_is_for_auditors_with_a_reason(self, account: str, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        path = f"accounts/{account}/evidence"
        assert Api("supervisor").get(path).status_code == 403
        assert Api("customer").get(path).status_code == 403
        answer = Api("auditor").get(path, **{"Read-Reason": ""})
        assert answer.json()["errors"][0]["field"] == "Read-Reason"
        assert Api("auditor").get(f"{path}?until_version=99").status_code == 400


class TestCsv:
    @pytest.mark.parametrize(
        "text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1"]
    )
    def test_what_looks_like_a_formula_is_text(self, text: str) -> None:
        assert csvs.neutral(text) == f"'{text}"

    @pytest.mark.parametrize("text", ["", "a=1", "1-2", "'=1", "bank:DE89"])
    def test_everything_else_stays(self, text: str) -> None:
        assert csvs.neutral(text) == text


class TestStatement:
    def test_adds_up(self, account: str) -> None:
        found = statements.statement_of(account, 2, store.head_version(account))
        assert found.opening + found.came_in + found.went_out == found.closing
        assert found.closing == history.current(account)[0].balance
        assert proofs.newest_seal().size == store.last_position()
