from django.db import migrations

from tenants.constraints import isolate, same_tenant


class Migration(migrations.Migration):
    dependencies = [
        ("messaging", "0001_initial"),
        ("campaigns", "0002_walls"),
        ("engine", "0002_walls"),
        ("tenants", "0002_walls"),
    ]
    operations = [
        same_tenant("messaging_sender", "provider_token_id", "tenants_providertoken"),
        same_tenant("messaging_sender", "lane_id", "engine_lane"),
        same_tenant("messaging_broadcast", "campaign_id", "campaigns_campaign"),
        same_tenant("messaging_broadcast", "sender_id", "messaging_sender"),
        same_tenant("messaging_broadcaststep", "broadcast_id", "messaging_broadcast"),
        same_tenant("messaging_broadcaststep", "template_id", "messaging_messagetemplate"),
        same_tenant("messaging_message", "lane_id", "engine_lane"),
        same_tenant("messaging_message", "broadcast_id", "messaging_broadcast"),
        same_tenant("messaging_message", "step_id", "messaging_broadcaststep"),
        same_tenant("messaging_message", "contact_id", "campaigns_contact"),
        isolate("messaging_sender"),
        isolate("messaging_messagetemplate"),
        isolate("messaging_broadcast"),
        isolate("messaging_broadcaststep"),
        isolate("messaging_suppression"),
    ]
