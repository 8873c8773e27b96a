"""The table of Django's cache: what counts attempts to sign in must outlive Redis."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("projections", "0003_saved_filter")]
    operations = [
        migrations.RunSQL(
            "CREATE TABLE django_cache (cache_key varchar(255) PRIMARY KEY, value text NOT NULL,"
            " expires timestamp with time zone NOT NULL);"
            "CREATE INDEX django_cache_expires ON django_cache (expires)",
            "DROP TABLE django_cache",
        )
    ]
