from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig

from config.logs import start_sentry
from providers.registry import VENDORS


class AdminConfig(DjangoAdminConfig):
    default_site = "config.admin_site.TurnoutAdminSite"


class ConfigConfig(AppConfig):
    name = "config"
    verbose_name = "Turnout"

    def ready(self) -> None:
        from config import checks  # noqa: F401 - registers them
        from tenants.models import register_providers

        register_providers((vendor.name, vendor.label) for vendor in VENDORS.values())
        start_sentry(settings.SENTRY_DSN)
