"""Every setting of Turnout, read from the environment by django-environ.

Each has a default that works for the demo; `config.checks` says at start-up what is missing or weak
for production. Names are part of the contract with operators.
"""

from pathlib import Path

import environ

from config.localpg import LocalPg
from config.logs import logging_config
from config.unfold import UNFOLD  # noqa: F401 - a setting: how the admin looks

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent
env.read_env(BASE_DIR / ".env")

# -- the process ---------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=True)
DEMO_SECRET_KEY = "turnout-demo-key-not-for-production"  # noqa: S105 - refused when DEBUG is off
SECRET_KEY = env("SECRET_KEY", default=DEMO_SECRET_KEY)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
PUBLIC_URL = env("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[PUBLIC_URL])
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
LOG_FORMAT = env("LOG_FORMAT", default="console")
ALERT_URLS = env.list("ALERT_URLS", default=[])
SENTRY_DSN = env("SENTRY_DSN", default="")

# -- secrets -------------------------------------------------------------------------------
DEMO_TOKEN_KEY = "dHVybm91dC1kZW1vLWtleS1ub3QtZm9yLXByb2QtISE="  # noqa: S105 - refused when DEBUG is off
TOKEN_KEYS = env.list("TOKEN_KEYS", default=[DEMO_TOKEN_KEY])
DEMO_META_APP_SECRET = "demo-app-secret"  # noqa: S105 - refused when DEBUG is off
META_APP_SECRET = env("META_APP_SECRET", default=DEMO_META_APP_SECRET)
DEMO_META_VERIFY_TOKEN = "demo-verify-token"  # noqa: S105 - refused when DEBUG is off
META_VERIFY_TOKEN = env("META_VERIFY_TOKEN", default=DEMO_META_VERIFY_TOKEN)

METRICS_TOKEN = env("METRICS_TOKEN", default="")  # empty: /metrics answers this machine alone

LOGGING = logging_config(
    LOG_FORMAT,
    secrets=[
        SECRET_KEY,
        *TOKEN_KEYS,
        META_APP_SECRET,
        META_VERIFY_TOKEN,
        METRICS_TOKEN,
        SENTRY_DSN,
        *ALERT_URLS,
    ],
)

# -- vendors: scheme and host, so that the sandbox can stand in ------------------------------
WHATSAPP_URL = env("WHATSAPP_URL", default="https://graph.facebook.com").rstrip("/")
META_GRAPH_URL = env("META_GRAPH_URL", default="https://graph.facebook.com").rstrip("/")
INSTAGRAM_GRAPH_URL = env("INSTAGRAM_GRAPH_URL", default="https://graph.instagram.com").rstrip("/")
LIME_URL = env("LIME_URL", default="https://mcpn.us").rstrip("/")
APIFY_URL = env("APIFY_URL", default="https://api.apify.com").rstrip("/")
YOUTUBE_URL = env("YOUTUBE_URL", default="https://www.googleapis.com").rstrip("/")

# -- rooms ---------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # the default one would put its own site in the place of ours
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "unfold.contrib.import_export",
    "config.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "import_export",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "tenants",
    "engine",
    "campaigns",
    "verification",
    "messaging",
    "tracking",
    "config.apps.ConfigConfig",
]
MIDDLEWARE = [
    "config.middleware.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tenants.middleware.TenantMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# -- database: PostgreSQL only; without DATABASE_URL the embedded server, started on first need --
DATABASE_URL = env("DATABASE_URL", default="")
try:
    DATABASES = {"default": env.db("DATABASE_URL") if DATABASE_URL else LocalPg().django()}
except ValueError:
    DATABASES = {"default": {}}
if DATABASES["default"].get("ENGINE") != "django.db.backends.postgresql":
    DATABASES["default"] = {"ENGINE": "django.db.backends.dummy"}  # config.checks says what to set
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- queue: one named cluster per queue, the database as broker unless BROKER_URL says Redis ----
BROKER_URL = env("BROKER_URL", default="")
QUEUES = ["verification", "messaging", "tracking", "events"]
SEND_TIMEOUT = env.float("SEND_TIMEOUT", default=20.0)  # for a message's whole exchange, in seconds
LEASE_SECONDS = env.float("LEASE_SECONDS", default=15.0)  # how long a dead runner keeps its lanes
RECEIPT_DAYS = env.int("RECEIPT_DAYS", default=7)  # how long an applied webhook is kept
TICK_SECONDS = 50  # a run ends by itself here, well below the timeout at which django-q2 kills it
Q_CLUSTER = {
    "name": "turnout",
    "workers": 2,
    "timeout": 90,
    "retry": 300,  # more than timeout * (1 + queue_limit / workers): a tick never runs beside itself
    "queue_limit": 2,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "save_limit": -1,
    "poll": 0.2,
    "recycle": 5000,
    "ALT_CLUSTERS": {queue: {} for queue in QUEUES},
    **({"redis": BROKER_URL} if BROKER_URL else {"orm": "default"}),
}

# -- language, time, files ------------------------------------------------------------------
LANGUAGE_CODE = "en-gb"
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
DATA_UPLOAD_MAX_MEMORY_SIZE = 12 * 1024 * 1024  # 10,000 contacts as JSON; Meta's webhooks reach 3 MB

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"

# -- API -----------------------------------------------------------------------------------
API_REQUESTS_PER_MINUTE = env.int("API_REQUESTS_PER_MINUTE", default=600)  # for each key
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tenants.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.api.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["tenants.api.authentication.KeyThrottle"],
    "DEFAULT_PARSER_CLASSES": ["tenants.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "tenants.api.pagination.LatestFirst",
    "DEFAULT_FILTER_BACKENDS": ["tenants.api.filters.DeclaredFilters"],
    "DEFAULT_SCHEMA_CLASS": "tenants.api.schema.TenantAutoSchema",
    "EXCEPTION_HANDLER": "tenants.api.problems.problem_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Turnout",
    "DESCRIPTION": "Campaigns for many tenants at once, under other people's rate limits.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",  # served by ourselves: the page works without the internet
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {  # several things have a `state`
        "CampaignState": "campaigns.models.Campaign.State",
        "TokenState": "tenants.models.ProviderToken.State",
        "TemplateState": "messaging.models.MessageTemplate.State",
        "BroadcastState": "messaging.models.Broadcast.State",
        "MessageState": "messaging.models.Message.State",
    },
}
