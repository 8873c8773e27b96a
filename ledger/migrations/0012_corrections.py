from django.db import migrations


class Migration(migrations.Migration):
    """Adjustments by the transaction that they correct. Built beside running writers, so not atomic."""

    atomic = False
    dependencies = [("ledger", "0011_privacy")]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS ledger_event_corrects "
            "ON ledger_event ((payload ->> 'corrects')) "
            "WHERE type = 'BalanceAdjusted' AND payload ->> 'corrects' <> ''",
            "DROP INDEX IF EXISTS ledger_event_corrects",
        )
    ]
