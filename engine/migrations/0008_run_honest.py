from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("engine", "0007_tick_request")]
    operations = [
        migrations.AddField(
            model_name="run",
            name="honest",
            field=models.PositiveIntegerField(
                default=0,
                db_default=0,
                help_text="Failed by the vendor's honest answer, e.g. that it is not there.",
            ),
        ),
    ]
