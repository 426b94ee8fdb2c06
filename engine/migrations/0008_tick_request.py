from django.db import migrations, models
from django.utils.timezone import now


class Migration(migrations.Migration):
    dependencies = [("engine", "0007_lane_grouped")]
    operations = [
        migrations.CreateModel(
            name="TickRequest",
            fields=[
                ("queue", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("asked_at", models.DateTimeField(default=now)),
            ],
        ),
    ]
