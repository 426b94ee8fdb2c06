"""Attributes and rules are objects, whoever writes them. Rules that are none choose nobody."""

import django.db.models.lookups
import tenants.json_columns
from django.db import migrations, models

from tenants.scope import ALL_ROWS_ROLE

MEND = f"""
SET LOCAL ROLE {ALL_ROWS_ROLE};
UPDATE campaigns_contact SET attributes = '{{}}' WHERE jsonb_typeof(attributes) <> 'object';
UPDATE campaigns_segment SET rules = '{{"op": "missing", "field": "external_id"}}'
 WHERE jsonb_typeof(rules) <> 'object';
SET LOCAL ROLE NONE;
"""

class Migration(migrations.Migration):

    dependencies = [
        ('campaigns', '0002_walls'),
        ('tenants', '0002_walls'),
    ]

    operations = [
        migrations.RunSQL(MEND, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name='contact',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('attributes'), models.Value('object')), name='contact_attributes_are_an_object'),
        ),
        migrations.AddConstraint(
            model_name='segment',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('rules'), models.Value('object')), name='segment_rules_are_an_object'),
        ),
    ]
