"""Registers the package."""

from django.apps import AppConfig


class ProjectionsConfig(AppConfig):
    """See the package README."""

    name = "projections"
