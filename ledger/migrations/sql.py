"""Run the `.sql` file that lies beside a migration."""

from pathlib import Path

from django.db.migrations.operations import RunSQL


def run_file(name: str) -> RunSQL:
    """The operation for `name`; there is no way back, as for everything append-only."""
    return RunSQL((Path(__file__).parent / name).read_text(encoding="utf-8"))
