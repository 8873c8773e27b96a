"""House rules as tests: a failure says what to do next."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["ledger", "projections", "audit", "config"]


def sources() -> list[Path]:
    return [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]


def test_no_float_touches_money() -> None:
    for path in sources():
        text = path.read_text()
        for word in ("float(", "FloatField", "INCRBYFLOAT"):
            assert word not in text, f"{path}: {word} has no place near money"


def test_sql_lives_in_migrations_and_the_store() -> None:
    allowed = {"ledger/store.py", "ledger/apps.py", "ledger/admin_base.py"}
    for path in sources():
        name = str(path.relative_to(ROOT))
        if name in allowed or "/migrations/" in name:
            continue
        assert not re.search(r"\.cursor\(", path.read_text()), f"move the SQL of {name} to store.py"


def test_each_sql_file_is_run_by_its_migration() -> None:
    for sql in ROOT.glob("*/migrations/*.sql"):
        migration = sql.with_suffix(".py").read_text()
        assert 'with_suffix(".sql")' in migration, f"{sql} is run by nothing"


def test_listen_and_notify_are_not_used() -> None:
    """NOTIFY serialises commits on one global lock (DESIGN section 4)."""
    for path in [*sources(), *ROOT.glob("*/migrations/*.sql")]:
        assert not re.search(r"pg_notify|\bNOTIFY ", path.read_text()), path


def test_templates_need_no_inline_script_or_style() -> None:
    """The content security policy forbids both. A statement is a file of its own, not a page of ours."""
    for path in {*(ROOT / "templates").rglob("*.html")} - {
        ROOT / "templates/ledger/statement.html"
    }:
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text), path


def test_vendored_files_are_what_they_were() -> None:
    import hashlib

    folder = ROOT / "projections" / "static" / "vendor"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
