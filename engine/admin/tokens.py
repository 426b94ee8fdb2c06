"""Provider tokens, with the button that asks the vendor."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from engine.actions.tokens import check_token
from tenants.admin import ProviderTokenAdmin
from tenants.admin_actions import object_action
from tenants.models import ProviderToken


@admin.register(ProviderToken)
class CheckableTokenAdmin(ProviderTokenAdmin):
    """Tokens, with the button that asks the vendor. Here, since `tenants` calls nobody."""

    @object_action("Check now", icon="wifi_tethering", variant="primary", network=True)
    def check_now(self, request: HttpRequest, token: ProviderToken) -> str:
        standing, detail = check_token(token_id=token.pk)
        return f"{token}: {standing.value}. {detail}"
