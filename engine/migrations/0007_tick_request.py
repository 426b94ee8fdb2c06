from django.db import migrations, models
from django.utils.timezone import now


class Migration(migrations.Migration):
    dependencies = [("engine", "0006_allowances")]
    operations = [
        migrations.CreateModel(
            name="TickRequest",
            fields=[
                ("queue", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("asked_at", models.DateTimeField(default=now)),
            ],
        ),
    ]
