from django.db import migrations

from tenants.constraints import same_tenant


class Migration(migrations.Migration):
    dependencies = [("engine", "0001_initial"), ("tenants", "0002_walls")]
    operations = [same_tenant("engine_lane", "token_id", "tenants_providertoken")]
