from django.db import migrations

from tenants.constraints import isolate


class Migration(migrations.Migration):
    dependencies = [("tenants", "0005_second_edition")]
    operations = [isolate("tenants_vendoraccount")]
