"""A campaign's state, and who may change it to what."""

from __future__ import annotations

from django.db import transaction

from campaigns.models import Campaign
from tenants.errors import ActionRefused

State = Campaign.State


def pause_campaign(*, campaign_id: int) -> Campaign:
    """Stop a campaign for a while."""
    return _move(campaign_id, State.PAUSED, (State.ACTIVE,))


def resume_campaign(*, campaign_id: int) -> Campaign:
    """Start a draft, or go on with a paused campaign."""
    return _move(campaign_id, State.ACTIVE, (State.DRAFT, State.PAUSED))


def complete_campaign(*, campaign_id: int) -> Campaign:
    """End a campaign for good."""
    return _move(campaign_id, State.COMPLETED, (State.ACTIVE, State.PAUSED))


@transaction.atomic
def _move(campaign_id: int, to: str, legal: tuple[str, ...]) -> Campaign:
    campaign: Campaign | None = Campaign.objects.select_for_update().filter(pk=campaign_id).first()
    if campaign is None:
        raise ActionRefused("There is no such campaign.")
    if campaign.state not in legal:
        raise ActionRefused(f"A campaign that is {campaign.state} cannot become {to}.")
    campaign.state = to
    campaign.save(update_fields=["state"])
    return campaign
