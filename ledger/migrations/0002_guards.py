from django.db import migrations

from ledger.migrations.sql import run_file


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [run_file("0002_guards.sql")]
