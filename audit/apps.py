"""Registers the package."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """See the package README."""

    name = "audit"
