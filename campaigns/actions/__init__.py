"""What people and systems do with campaigns, contacts, cohorts and spins. Run inside a scope."""

from campaigns.actions.campaigns import complete_campaign, pause_campaign, resume_campaign
from campaigns.actions.cohorts import create_cohort
from campaigns.actions.contacts import TooManyRows, import_contacts, save_contact
from campaigns.actions.spins import award_spins, balance, revoke_spins, spend_spins

__all__ = [
    "TooManyRows",
    "award_spins",
    "balance",
    "complete_campaign",
    "create_cohort",
    "import_contacts",
    "pause_campaign",
    "resume_campaign",
    "revoke_spins",
    "save_contact",
    "spend_spins",
]
