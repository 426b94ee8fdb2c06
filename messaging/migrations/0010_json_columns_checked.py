"""Lists are lists and objects are objects, whoever writes them. What is not becomes empty, and cannot be sent."""

import django.db.models.lookups
import tenants.json_columns
from django.db import migrations, models

from tenants.scope import ALL_ROWS_ROLE

MEND = f"""
SET LOCAL ROLE {ALL_ROWS_ROLE};
UPDATE messaging_messagetemplate
   SET state = 'disabled',
       variables = CASE jsonb_typeof(variables) WHEN 'array' THEN variables ELSE '[]' END,
       components = CASE jsonb_typeof(components) WHEN 'array' THEN components ELSE '[]' END
 WHERE jsonb_typeof(variables) <> 'array' OR jsonb_typeof(components) <> 'array';
UPDATE messaging_broadcast SET audience = '{{}}' WHERE jsonb_typeof(audience) <> 'object';
SET LOCAL ROLE NONE;
"""

class Migration(migrations.Migration):

    dependencies = [
        ('campaigns', '0003_json_columns_checked'),
        ('messaging', '0009_doubt_has_an_end'),
        ('tenants', '0002_walls'),
    ]

    operations = [
        migrations.RunSQL(MEND, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name='broadcast',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('audience'), models.Value('object')), name='broadcast_audience_is_an_object'),
        ),
        migrations.AddConstraint(
            model_name='broadcaststep',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('frozen'), models.Value('object')), name='step_frozen_is_an_object'),
        ),
        migrations.AddConstraint(
            model_name='messagetemplate',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('variables'), models.Value('array')), name='template_variables_are_a_list'),
        ),
        migrations.AddConstraint(
            model_name='messagetemplate',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(tenants.json_columns.JsonType('components'), models.Value('array')), name='template_components_are_a_list'),
        ),
    ]
