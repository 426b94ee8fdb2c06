"""Tenants in the admin."""

from django.contrib import admin

from tenants.admin_base import TenantModelAdmin, badge
from tenants.models import ProviderToken


@admin.register(ProviderToken)
class ProviderTokenAdmin(TenantModelAdmin):
    list_display = ("label", "provider", badge(), "hourly_allowance", "expires_at", "checked_at")
    list_filter = ("state", "provider")
