"""How long a sender's messages stay in doubt, when each doubt began, and which attempts are known to have failed."""

import django.contrib.postgres.fields
from django.db import migrations, models

# From when those in doubt already are so is not known: they are given the whole time from now on.
FILL = "UPDATE messaging_message SET in_doubt_at = now() WHERE state = 'in_doubt' AND in_doubt_at IS NULL"


class Migration(migrations.Migration):
    dependencies = [("messaging", "0008_freeze_steps")]
    operations = [
        migrations.AddField(
            model_name="sender",
            name="in_doubt_minutes",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="After so many minutes without any word of the vendor, a message in doubt counts as not sent and is sent again, at most twice. Whoever got the first one then gets it twice. Empty (as it should be unless missing one is worse): a person decides. 5 minutes to 7 days; statuses normally come within seconds.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="message",
            name="dismissed",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.UUIDField(),
                editable=False,
                help_text="Attempts that the vendor failed and that were tried again: its late word changes nothing.",
                null=True,
                size=None,
            ),
        ),
        migrations.AddConstraint(
            model_name="sender",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("in_doubt_minutes__isnull", True),
                    models.Q(("in_doubt_minutes__gte", 5), ("in_doubt_minutes__lte", 10080)),
                    _connector="OR",
                ),
                name="sender_doubts_for_a_while",
                violation_error_message="Write 5 to 10,080 minutes (7 days), or leave it empty.",
            ),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
