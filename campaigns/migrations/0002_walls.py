from django.db import migrations

from tenants.constraints import isolate, same_tenant


class Migration(migrations.Migration):
    dependencies = [("campaigns", "0001_initial"), ("tenants", "0002_walls")]
    operations = [
        same_tenant("campaigns_socialaccount", "contact_id", "campaigns_contact"),
        same_tenant("campaigns_cohortmember", "cohort_id", "campaigns_cohort"),
        same_tenant("campaigns_cohortmember", "contact_id", "campaigns_contact"),
        same_tenant("campaigns_spinentry", "campaign_id", "campaigns_campaign"),
        same_tenant("campaigns_spinentry", "contact_id", "campaigns_contact"),
        isolate("campaigns_campaign"),
        isolate("campaigns_contact"),
        isolate("campaigns_socialaccount"),
        isolate("campaigns_segment"),
        isolate("campaigns_cohort"),
        isolate("campaigns_cohortmember"),
        isolate("campaigns_spinentry"),
    ]
