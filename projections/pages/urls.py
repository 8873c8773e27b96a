"""The back office's routes."""

from django.urls import path

from projections.pages import views

urlpatterns = [
    path("", views.home, name="home"),
    path("live", views.home_live, name="home-live"),
    path("search", views.search, name="search"),
    path("accounts/open", views.open_account, name="open-account"),
    path("accounts/<str:account_id>", views.account, name="account"),
    path("accounts/<str:account_id>/live", views.account_live, name="account-live"),
    path("accounts/<str:account_id>/chart", views.account_chart, name="account-chart"),
    path(
        "accounts/<str:account_id>/holds/<str:hold_id>/<str:action>",
        views.act_on_hold,
        name="act-on-hold",
    ),
    path("accounts/<str:account_id>/<str:action>", views.act, name="act"),
    path("transactions/<str:command_id>", views.transaction, name="transaction"),
    path("imports", views.import_file, name="import"),
    path("imports/<str:job_id>", views.import_job, name="import-job"),
    path("imports/<str:job_id>/start", views.import_start, name="import-start"),
    path("problems/<str:code>", views.problem_type, name="problem"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
