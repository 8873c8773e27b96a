"""Brings databases that had an earlier 0003 to today's functions; on new ones it changes nothing."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).with_name("0003_functions.sql").read_text(encoding="utf-8")


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_functions")]
    operations = [
        migrations.RunSQL(SQL.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")),
    ]
