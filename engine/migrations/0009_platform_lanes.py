"""A platform-owned lane or allowance stays on the platform's token, whoever looks."""

from django.db import migrations

from tenants.constraints import owner_stays
from tenants.scope import ALL_ROWS_ROLE

# Deferred to the commit, when the role that wrote the row may be gone: the check sees every tenant's tokens
# by itself. A foreign key on (tenant_id, token_id) does not look at rows without a tenant, hence the plain
# ones: a token that platform-owned lanes stand on cannot go away under them.
FUNCTION = f"""
ALTER FUNCTION engine_platform_token() OWNER TO {ALL_ROWS_ROLE};
SET LOCAL ROLE {ALL_ROWS_ROLE};
ALTER FUNCTION engine_platform_token() SECURITY DEFINER SET search_path = public, pg_temp;
RESET ROLE;
"""


def exists(table: str, on_delete: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_token_exists FOREIGN KEY (token_id) "
        f"REFERENCES tenants_providertoken (id) ON DELETE {on_delete} DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_token_exists",
    )


class Migration(migrations.Migration):
    dependencies = [("engine", "0008_tick_request"), ("tenants", "0007_platform_tokens")]
    operations = [
        migrations.RunSQL(FUNCTION, migrations.RunSQL.noop),
        exists("engine_lane", "NO ACTION"),
        exists("engine_allowance", "CASCADE"),
        owner_stays("engine_lane"),
    ]
