from django.db import migrations

from tenants.constraints import same_tenant


class Migration(migrations.Migration):
    dependencies = [("messaging", "0004_webhooks_and_watch")]
    operations = [
        # the suppression outlives the contact, so only that column is emptied
        same_tenant(
            "messaging_suppression",
            "contact_id",
            "campaigns_contact",
            on_delete="SET NULL (contact_id)",
        )
    ]
