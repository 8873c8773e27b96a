from django.db import migrations

from ledger.migrations.sql import run_file


class Migration(migrations.Migration):
    dependencies = [("ledger", "0002_guards")]
    operations = [run_file("0003_functions.sql")]
