"""What a step sends is frozen at launch; those launched before get what their template says now."""

from django.db import migrations, models

from tenants.scope import ALL_ROWS_ROLE

# The tables show their rows to one tenant at a time, to their owner as well: so as the role that sees all.
FILL = f"""
SET LOCAL ROLE {ALL_ROWS_ROLE};
UPDATE messaging_broadcaststep AS s
   SET frozen = jsonb_build_object('name', t.name, 'language', t.language, 'category', t.category,
                                   'components', CASE jsonb_typeof(t.components) WHEN 'array'
                                                 THEN t.components ELSE '[]' END)
  FROM messaging_messagetemplate AS t, messaging_broadcast AS b
 WHERE t.id = s.template_id AND b.id = s.broadcast_id AND b.state NOT IN ('draft', 'scheduled');
SET LOCAL ROLE NONE;
"""


class Migration(migrations.Migration):
    dependencies = [("messaging", "0007_second_edition"), ("tenants", "0002_walls")]
    operations = [
        migrations.AddField(
            model_name="broadcaststep",
            name="frozen",
            field=models.JSONField(
                db_default=models.Value({}, models.JSONField()),
                default=dict,
                editable=False,
                help_text="The template as it was at launch: this is what is sent.",
            ),
        ),
        migrations.AlterField(
            model_name="broadcast",
            name="pause_reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("operator", "Operator"),
                    ("spam", "Spam"),
                    ("failures", "Failures"),
                    ("token", "Token"),
                    ("billing", "Billing"),
                    ("template", "Template"),
                    ("fault", "fault (our own code failed)"),
                ],
                editable=False,
                max_length=16,
            ),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
