from django.db import migrations

from tenants.constraints import all_rows_role, isolate


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [
        all_rows_role(),
        isolate("tenants_membership"),
        isolate("tenants_apikey"),
        isolate("tenants_providertoken"),
    ]
