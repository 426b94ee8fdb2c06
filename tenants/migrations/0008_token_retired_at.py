from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0007_platform_tokens")]
    operations = [
        migrations.AddField(
            model_name="providertoken",
            name="retired_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="When our own staff took it out of use.",
                null=True,
            ),
        ),
    ]
