"""Joins the packages' routes."""

urlpatterns: list = []
