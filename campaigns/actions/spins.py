"""The spin ledger: rows are only ever added, and nobody's balance falls below zero."""

from __future__ import annotations

from django.db import IntegrityError, transaction
from django.db.models import Sum

from campaigns.models import Campaign, Contact, SpinEntry
from tenants.errors import ActionRefused

Reason = SpinEntry.Reason
MAX_SPINS = 1_000_000


@transaction.atomic
def award_spins(*, campaign_id: int, contact_id: int, spins: int, source: str) -> SpinEntry:
    """Give spins for what `source` names, e.g. `completion:17`; the same source gives only once."""
    if not 0 < spins <= MAX_SPINS:
        raise ActionRefused(f"Spins are 1 to {MAX_SPINS:,} at a time.", field="spins")
    return _add(_locked(contact_id), campaign_id, spins, Reason.WON, source)


@transaction.atomic
def spend_spins(*, campaign_id: int, contact_id: int, spins: int, source: str) -> SpinEntry:
    """Use spins up, if that many are left."""
    if not 0 < spins <= MAX_SPINS:
        raise ActionRefused(f"Spins are 1 to {MAX_SPINS:,} at a time.", field="spins")
    contact = _locked(contact_id)
    left = balance(campaign_id=campaign_id, contact_id=contact_id)
    if left < spins:
        raise ActionRefused(f"{left} spins are left, {spins} were asked for.", field="spins")
    return _add(contact, campaign_id, -spins, Reason.SPENT, source)


@transaction.atomic
def revoke_spins(*, source: str, tenant_id: int) -> SpinEntry:
    """Take back what a source gave, or as much of it as is not spent. Refused when nothing of it is left."""
    won = SpinEntry.objects.filter(tenant_id=tenant_id, source=source, reason=Reason.WON).first()
    if won is None:
        raise ActionRefused(f"No spins were given for {source}.")
    contact = _locked(won.contact_id)
    if SpinEntry.objects.filter(tenant_id=tenant_id, source=source, reason=Reason.REVOKED).exists():
        raise ActionRefused(f"The spins for {source} were taken back already.")
    left = balance(campaign_id=won.campaign_id, contact_id=won.contact_id)
    if left <= 0:
        raise ActionRefused(f"The spins for {source} are spent.")
    return _add(contact, won.campaign_id, -min(won.spins, left), Reason.REVOKED, source)


def balance(*, campaign_id: int, contact_id: int) -> int:
    """Return how many spins a contact has in a campaign."""
    rows = SpinEntry.objects.filter(campaign_id=campaign_id, contact_id=contact_id)
    return int(rows.aggregate(sum=Sum("spins"))["sum"] or 0)


def _locked(contact_id: int) -> Contact:
    """Lock the contact's row: whoever adds to this contact's ledger waits in turn, so balances hold."""
    rows = Contact.objects.select_for_update(no_key=True)
    contact: Contact | None = rows.filter(pk=contact_id).first()
    if contact is None:
        raise ActionRefused("There is no such contact.", field="contact")
    return contact


def _add(contact: Contact, campaign_id: int, spins: int, reason: str, source: str) -> SpinEntry:
    if not Campaign.objects.filter(pk=campaign_id, tenant_id=contact.tenant_id).exists():
        raise ActionRefused("There is no such campaign.", field="campaign")
    try:
        with transaction.atomic():
            entry: SpinEntry = SpinEntry.objects.create(
                tenant_id=contact.tenant_id,
                campaign_id=campaign_id,
                contact=contact,
                spins=spins,
                reason=reason,
                source=source,
            )
    except IntegrityError as error:
        if _constraint(error) == "spin_entry_once":
            raise ActionRefused(f"{source} has counted already as {reason}.") from None
        raise
    return entry


def _constraint(error: IntegrityError) -> str | None:
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
