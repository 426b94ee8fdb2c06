"""The spin ledger: each source counts once, and nobody spends what is not there, however many try at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from campaigns.actions import award_spins, balance, revoke_spins, spend_spins
from campaigns.models import Campaign, Contact, SpinEntry
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import tenant_scope
from tests.factories import CampaignFactory, ContactFactory

Ids = dict[str, int]


def player(tenant: Tenant) -> Ids:
    with tenant_scope(tenant.pk):
        contact = ContactFactory.create(tenant=tenant)
        return {"campaign_id": CampaignFactory.create(tenant=tenant).pk, "contact_id": contact.pk}


@pytest.fixture
def ann(acme: Tenant) -> Ids:
    return player(acme)


def test_spins_are_won_spent_and_taken_back(acme: Tenant, ann: Ids) -> None:
    with tenant_scope(acme.pk):
        award_spins(**ann, spins=5, source="completion:1")
        award_spins(**ann, spins=2, source="completion:2")
        spend_spins(**ann, spins=3, source="wheel:1")
        assert balance(**ann) == 4
        assert revoke_spins(source="completion:1", tenant_id=acme.pk).spins == -4  # one of the five is spent
        assert balance(**ann) == 0
        with pytest.raises(ActionRefused, match="spent"):
            revoke_spins(source="completion:2", tenant_id=acme.pk)
        with pytest.raises(ActionRefused, match="taken back already"):
            revoke_spins(source="completion:1", tenant_id=acme.pk)


def test_a_source_counts_once(acme: Tenant, ann: Ids) -> None:
    with tenant_scope(acme.pk):
        award_spins(**ann, spins=5, source="completion:1")
        with pytest.raises(ActionRefused, match="completion:1 has counted already as won"):
            award_spins(**ann, spins=5, source="completion:1")
        assert balance(**ann) == 5


@pytest.mark.parametrize("spins", [0, -1, 10**9])
def test_only_a_sensible_number_of_spins_moves(acme: Tenant, ann: Ids, spins: int) -> None:
    with tenant_scope(acme.pk):
        for verb in (award_spins, spend_spins):
            with pytest.raises(ActionRefused, match="1 to 1,000,000"):
                verb(**ann, spins=spins, source="x")
        assert not SpinEntry.objects.exists()


def test_another_tenants_rows_are_not_there(acme: Tenant, globex: Tenant, ann: Ids) -> None:
    theirs = player(globex)
    with tenant_scope(globex.pk):
        award_spins(**theirs, spins=9, source="completion:1")
    with tenant_scope(acme.pk):
        with pytest.raises(ActionRefused, match="no such contact"):
            award_spins(**theirs, spins=1, source="x")
        with pytest.raises(ActionRefused, match="no such campaign"):
            award_spins(**{**ann, "campaign_id": theirs["campaign_id"]}, spins=1, source="x")
        with pytest.raises(ActionRefused, match="No spins were given"):
            revoke_spins(source="completion:1", tenant_id=acme.pk)
        assert balance(**theirs) == 0  # as far as Acme can see


@pytest.mark.django_db(transaction=True)
def test_many_at_once_spend_no_more_than_there_is() -> None:
    tenant = Tenant.objects.create(name="Acme", slug="acme")
    ids = player(tenant)
    with tenant_scope(tenant.pk):
        award_spins(**ids, spins=5, source="completion:1")

    def spend(number: int) -> bool:
        try:
            with tenant_scope(tenant.pk):
                spend_spins(**ids, spins=2, source=f"wheel:{number}")
        except ActionRefused:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(6) as pool:
        spent = list(pool.map(spend, range(6)))
    assert sum(spent) == 2
    with tenant_scope(tenant.pk):
        assert balance(**ids) == 1
        assert Contact.objects.count() == Campaign.objects.count() == 1
