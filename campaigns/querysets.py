"""Set-based verbs over campaigns' rows."""

from tenants.scope import TenantQuerySet


class ContactQuerySet(TenantQuerySet):
    """Contacts of the scope in force."""

    def reachable_by_phone(self) -> "ContactQuerySet":
        return self.exclude(phone="")
