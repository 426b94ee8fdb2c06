"""The project: settings, addresses, admin site, system checks and the embedded database."""
