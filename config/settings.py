"""Settings, all from the environment; secrets have no defaults.

DATABASE_URL is the least-privilege role that every process runs as; DATABASE_OWNER_URL owns the
tables and is used by ``migrate --database owner`` alone.
"""

from decimal import Decimal
from pathlib import Path
from typing import Any

import environ
import structlog
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent

_missing = [
    name for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL") if not env.str(name, default="")
]
if _missing:
    raise ImproperlyConfigured(
        f"missing in the environment: {', '.join(_missing)}. "
        "bin/up sets them for a local system; deploy/README.md lists them all."
    )

SECRET_KEY = env.str("SECRET_KEY")
DEBUG = env.bool("DEBUG", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "config.admin_site.LedgerAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "csp",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "ledger",
    "projections",
    "audit",
]

MIDDLEWARE = [
    "config.metrics.RequestMetrics",
    "config.middleware.LogContext",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "config.middleware.TokenLane",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "config.accounts.SecondFactor",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "ledger.pages.context",
            ],
        },
    },
]


def _database(name: str) -> dict[str, Any]:
    return {
        **env.db_url(name),
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        # Waiting for a lock ends in a clear "not done" instead of a sender who gives up not knowing.
        "OPTIONS": {
            "connect_timeout": 5,
            "application_name": "ledger",
            "options": "-c lock_timeout=4s",
        },
        "ATOMIC_REQUESTS": False,
    }


DATABASES = {"default": _database("DATABASE_URL")}
if env.str("DATABASE_OWNER_URL", default=""):
    DATABASES["owner"] = _database("DATABASE_OWNER_URL")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = env.str("REDIS_URL")
CACHES = {
    # Attempts to sign in are counted here: guessing stays bounded, and signing in possible, without
    # Redis.
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "django_cache",
    },
    "redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
    },
}
# Raised by one after a restore that lost events: topic, Redis keys and seals begin anew.
LEDGER_EPOCH = env.int("LEDGER_EPOCH", default=1)
_EPOCH = f".{LEDGER_EPOCH}" if LEDGER_EPOCH > 1 else ""
LEDGER_REDIS_PREFIX = env.str("LEDGER_REDIS_PREFIX", default="ledger") + _EPOCH

KAFKA_BOOTSTRAP_SERVERS = env.str("KAFKA_BOOTSTRAP_SERVERS", default="")
LEDGER_BUS = env.str("LEDGER_BUS", default="kafka" if KAFKA_BOOTSTRAP_SERVERS else "log")
LEDGER_TOPIC = env.str("LEDGER_TOPIC", default="ledger.events") + _EPOCH
LEDGER_TOPIC_PARTITIONS = env.int("LEDGER_TOPIC_PARTITIONS", default=12)
LEDGER_TOPIC_REPLICATION = env.int("LEDGER_TOPIC_REPLICATION", default=1)
if LEDGER_BUS == "kafka" and not KAFKA_BOOTSTRAP_SERVERS:
    raise ImproperlyConfigured("LEDGER_BUS=kafka needs KAFKA_BOOTSTRAP_SERVERS")

LEDGER_SEALS_TOPIC = env.str("LEDGER_SEALS_TOPIC", default="ledger.seals") + _EPOCH
LEDGER_SEAL_KEYS = env.list("LEDGER_SEAL_KEYS", default=[])  # files of private keys
LEDGER_SEAL_PUBLIC_KEYS = env.list("LEDGER_SEAL_PUBLIC_KEYS", default=[])  # current and retired
LEDGER_WITNESS = env.str("LEDGER_WITNESS", default="")  # a directory or a URL
LEDGER_CHECK_PAUSE_SECONDS = env.int("LEDGER_CHECK_PAUSE_SECONDS", default=60)

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default=REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_QUEUE = env.str("CELERY_QUEUE", default="ledger")
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600, "socket_keepalive": True}
# A wake-up that cannot be sent is lost on purpose: beat sends the next one.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BEAT_SCHEDULER = "config.celery:SteadyScheduler"
CELERY_BEAT_SCHEDULE = {
    "relay": {"task": "projections.relay", "schedule": 2.0, "options": {"expires": 2.0}},
    "watch": {"task": "projections.watch", "schedule": 5.0, "options": {"expires": 5.0}},
    "webhooks": {"task": "projections.webhooks", "schedule": 2.0, "options": {"expires": 2.0}},
    "erasures": {"task": "ledger.finish_erasures", "schedule": 5.0, "options": {"expires": 5.0}},
    "holds": {"task": "ledger.expire_holds", "schedule": 5.0, "options": {"expires": 5.0}},
    "seal": {"task": "audit.seal", "schedule": 2.0, "options": {"expires": 2.0}},
    "check": {"task": "audit.check", "schedule": 5.0, "options": {"expires": 5.0}},
    "sums": {"task": "ledger.keep_sums", "schedule": 20.0, "options": {"expires": 20.0}},
    "approvals": {"task": "ledger.run_approved", "schedule": 30.0, "options": {"expires": 30.0}},
    "imports": {"task": "ledger.resume_imports", "schedule": 30.0, "options": {"expires": 30.0}},
}

# Wraps the keys that personal data is sealed under: base64 of 32 bytes each, the current one first.
# Without one it is stored as it is.
LEDGER_PRIVACY_KEYS = env.list("LEDGER_PRIVACY_KEYS", default=[])

APPROVAL_DEFAULT = ["AdjustBalance=0", "ReverseTransaction=0", "EraseHolder=0"]
# Commands of people that need a second person, above an amount in units of its currency.
LEDGER_APPROVAL = {
    name: Decimal(above)
    for name, _, above in (
        item.strip().partition("=")
        for item in env.list("LEDGER_APPROVAL", default=APPROVAL_DEFAULT)
    )
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
ACCOUNT_ADAPTER = "config.accounts.Adapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_AUTHENTICATED_LOGIN_REDIRECTS = False
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_RATE_LIMITS = {
    "login": env.str("LEDGER_LOGIN_RATE", default="30/m/ip"),
    "login_failed": env.str("LEDGER_LOGIN_FAILED_RATE", default="10/m/ip,5/5m/key"),
    "reauthenticate": "10/m/user",
    "change_password": "5/m/user",
}
ALLAUTH_TRUSTED_PROXY_COUNT = env.int("LEDGER_PROXIES", default=0)
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_TOTP_ISSUER = "Ledger"
# Groups whose members must have a second factor, such as supervisor and auditor.
LEDGER_MFA_ROLES = env.list("LEDGER_MFA_ROLES", default=[])
# Browsers allow passkeys without https on localhost alone.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not env.bool("LEDGER_HTTPS", default=False)
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# Requests a second of the API, per sender and web process; 0 for as many as they like.
LEDGER_RATES = {"anonymous": 20, "customer": 20, "staff": 50, "service": 0} | {
    name: int(rate)
    for name, _, rate in (
        item.strip().partition("=") for item in env.list("LEDGER_RATES", default=[])
    )
}
REST_FRAMEWORK = {
    "DEFAULT_THROTTLE_CLASSES": ["ledger.api.limits.RateLimit"],
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "ledger.api.authentication.LedgerTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["ledger.api.renderers.FastJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ledger.api.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "ledger.api.problems.handle_exception",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": None}
SPECTACULAR_SETTINGS = {
    "TITLE": "Ledger",
    "DESCRIPTION": "An event-sourced ledger for money. See docs/api.md.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "docExpansion": "list"},
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
}

MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
LANGUAGE_CODE = "en-gb"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / ".local" / "static"
STATICFILES_DIRS = [BASE_DIR / "projections" / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
if env.bool("LEDGER_PLAIN_STATIC", default=False):  # tests: no collectstatic needed
    WHITENOISE_USE_FINDERS = True
    WHITENOISE_AUTOREFRESH = True
    STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"

DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = 25 * 1024 * 1024

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
if env.bool("LEDGER_HTTPS", default=False):
    SECURE_SSL_REDIRECT = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = 31536000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True

# Names the way of every event in the logs: committed, relayed, projected.
LEDGER_TRACE = env.bool("LEDGER_TRACE", default=False)
# Webhooks may use http and private addresses: for a network of one's own.
LEDGER_WEBHOOKS_PRIVATE = env.bool("LEDGER_WEBHOOKS_PRIVATE", default=False)
LEDGER_METRICS_TOKEN = env.str("LEDGER_METRICS_TOKEN", default="")

_LOG_FIELDS = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _LOG_FIELDS,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(
                    colors=False,
                    pad_event_to=0,
                    # Never the variables of a frame: secrets and whole batches are among them.
                    exception_formatter=structlog.dev.plain_traceback,
                ),
            ],
        },
        "json": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _LOG_FIELDS,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        },
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": env.str("LOG_FORMAT", default="line"),
        }
    },
    # A refused request is an answer, not an error.
    "loggers": {"django.request": {"level": "ERROR"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="INFO")},
}
