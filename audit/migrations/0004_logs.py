"""Trees and seals for the records of commands and of looks too; passes in stages."""

from pathlib import Path

from django.db import migrations, models

LOG = models.TextField(
    choices=[("events", "events"), ("commands", "commands"), ("reads", "reads")], default="events"
)


class Migration(migrations.Migration):
    dependencies = [("audit", "0003_pass"), ("ledger", "0005_records")]
    operations = [
        migrations.RunSQL(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField("node", "level"),
                migrations.RemoveField("node", "index"),
                migrations.AlterField("seal", "size", models.BigIntegerField()),
                migrations.AddField(
                    "seal",
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                migrations.AddField("seal", "log", LOG),
                migrations.AlterModelOptions(
                    "seal", options={"ordering": ["-id"], "verbose_name": "seal"}
                ),
                migrations.AddConstraint(
                    "seal",
                    models.UniqueConstraint(fields=["log", "size"], name="audit_seal_log_size"),
                ),
            ]
        ),
        migrations.DeleteModel("Pass"),
        migrations.CreateModel(
            name="Pass",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(null=True)),
                ("ends", models.JSONField()),
                ("stage", models.TextField(default="events")),
                ("position", models.BigIntegerField(default=0)),
                ("peaks", models.JSONField(default=list)),
                ("before", models.DateTimeField(null=True)),
                ("covered", models.JSONField(default=dict)),
                ("last_account", models.TextField(default="")),
                ("accounts", models.IntegerField(default=0)),
                ("copies", models.IntegerField(default=0)),
                ("seals", models.IntegerField(default=0)),
                ("sums", models.JSONField(default=dict)),
                ("findings", models.JSONField(default=list)),
                ("findings_total", models.IntegerField(default=0)),
            ],
            options={"verbose_name": "verification", "ordering": ["-id"]},
        ),
    ]
