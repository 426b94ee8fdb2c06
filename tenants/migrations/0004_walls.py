from django.db import migrations

from tenants.constraints import isolate


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_requests")]
    operations = [
        isolate("tenants_idempotentrequest"),
        # written by every request and worth nothing after a crash: no write-ahead log, no flush
        migrations.RunSQL(
            "ALTER TABLE tenants_apikeywindow SET UNLOGGED", "ALTER TABLE tenants_apikeywindow SET LOGGED"
        ),
    ]
