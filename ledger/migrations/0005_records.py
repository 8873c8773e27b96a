"""Numbers and leaf hashes for the records of commands, and the table of looks."""

from pathlib import Path
from typing import Any

from django.db import migrations, models

from ledger import codec, store

HERE = Path(__file__)
FUNCTIONS = HERE.with_name("0003_functions.sql").read_text(encoding="utf-8")
CHUNK = 1000


def number_commands(_apps: Any, schema_editor: Any) -> None:
    """Give the records that are there their numbers, in the order they were received, and leaves."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT id::text, first_position, last_position, sender, idempotency_key, "
            "encode(fingerprint, 'hex'), name, body::text, outcome, error::text, account_id::text, "
            "actor, correlation_id, channel, received_at FROM ledger_command "
            "ORDER BY received_at, coalesce(first_position, 0), id"
        )
        found = cursor.fetchall()
        if not found:
            return
        cursor.execute("ALTER TABLE ledger_command DISABLE TRIGGER ledger_command_append_only")
        rows = []
        for number, row in enumerate(found, 1):
            digest = codec.digest(store.command_content((row[0], *row[3:])))
            rows.append((number, codec.command_leaf(number, row[1], row[2], digest), row[0]))
        for start in range(0, len(rows), CHUNK):
            cursor.executemany(
                "UPDATE ledger_command SET number = %s, leaf_hash = %s WHERE id = %s",
                rows[start : start + CHUNK],
            )
        cursor.execute(
            "ALTER TABLE ledger_command ENABLE ALWAYS TRIGGER ledger_command_append_only"
        )


class Migration(migrations.Migration):
    dependencies = [("ledger", "0004_functions_again")]
    operations = [
        migrations.CreateModel(
            name="Access",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("actor", models.TextField()),
                ("what", models.TextField()),
                ("account_id", models.UUIDField(null=True)),
                ("moment", models.TextField()),
                ("reason", models.TextField()),
                ("channel", models.TextField()),
                ("correlation_id", models.TextField()),
                ("leaf_hash", models.BinaryField()),
            ],
            options={
                "verbose_name": "look",
                "verbose_name_plural": "who looked",
                "db_table": "ledger_access",
                "ordering": ["-number"],
                "indexes": [
                    models.Index(fields=["account_id", "number"], name="ledger_access_account"),
                    models.Index(fields=["actor", "number"], name="ledger_access_actor"),
                ],
            },
        ),
        migrations.AddField("command", "number", models.BigIntegerField(null=True)),
        migrations.AddField("command", "leaf_hash", models.BinaryField(null=True)),
        migrations.RunPython(number_commands, migrations.RunPython.noop),
        migrations.AlterField("command", "number", models.BigIntegerField()),
        migrations.AlterField("command", "leaf_hash", models.BinaryField()),
        migrations.AddConstraint(
            "command",
            models.UniqueConstraint(fields=["number"], name="ledger_command_number"),
        ),
        migrations.RunSQL(HERE.with_suffix(".sql").read_text(encoding="utf-8")),
        migrations.RunSQL(FUNCTIONS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")),
    ]
