from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    default_site = "config.admin_site.TurnoutAdminSite"


class ConfigConfig(AppConfig):
    name = "config"
    verbose_name = "Turnout"
