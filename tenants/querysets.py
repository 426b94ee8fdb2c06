"""Verbs over tenants' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Exists, OuterRef, Q

from tenants.scope import TenantQuerySet

if TYPE_CHECKING:
    from tenants.models import Tenant


class ProviderTokenQuerySet(TenantQuerySet):
    def of_platform(self) -> ProviderTokenQuerySet:
        """Keep the platform's own tokens."""
        return self.filter(tenant=None)

    def usable_by(self, tenant: Tenant) -> ProviderTokenQuerySet:
        """Keep the tokens that may be spent on behalf of `tenant`: its own, and the platform's that serve it.

        Run it under `all_tenants()`: in the tenant's own scope the platform's tokens do not exist.
        PostgreSQL knows the same rule as `tenants_token_serves(token_id, tenant_id)`.
        """
        named = self.model.usable_by.through.objects.filter(providertoken_id=OuterRef("pk"))
        serves = Q(Exists(named.filter(tenant_id=tenant.pk)))
        if tenant.tier == tenant.Tier.STANDARD:
            serves |= ~Q(Exists(named))
        return self.filter(Q(tenant_id=tenant.pk) | (Q(tenant=None) & serves))
