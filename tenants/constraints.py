"""The walls between tenants that PostgreSQL holds, as migration operations."""

from __future__ import annotations

from django.db import migrations

from tenants.scope import ALL_ROWS_ROLE


def same_tenant(table: str, column: str, parent: str, *, on_delete: str = "NO ACTION") -> migrations.RunSQL:
    """Let `table.column` point only at a row of `parent` that belongs to the same tenant.

    `parent` needs a unique constraint on (tenant_id, id). Deferred to the commit, as Django's own are.
    The Django field says `db_constraint=False`: this is its constraint.
    """
    name = f"{table}_{column}_same_tenant"[:63]
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (tenant_id, {column}) "
        f"REFERENCES {parent} (tenant_id, id) ON DELETE {on_delete} DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
    )


def isolate(table: str) -> migrations.RunSQL:
    """Show `table`'s rows to their own tenant only, to the owner of the table included.

    A bigint `=` is leakproof, so indexes are still used under the policy.
    """
    own = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::bigint"
    return migrations.RunSQL(
        f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY own_tenant ON {table} USING ({own}) WITH CHECK ({own});
        CREATE POLICY every_tenant ON {table} TO {ALL_ROWS_ROLE} USING (true) WITH CHECK (true);
        """,
        f"""
        DROP POLICY every_tenant ON {table};
        DROP POLICY own_tenant ON {table};
        ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
        """,
    )


def all_rows_role() -> migrations.RunSQL:
    """Make the role that sees every tenant, and let us, who do not, switch to it.

    `INHERIT FALSE` matters: a member that inherits would pass that role's policy without switching.
    Needs CREATEROLE, or a role that an administrator has made before.
    """
    return migrations.RunSQL(
        f"""
        DO $$
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ALL_ROWS_ROLE}') THEN
                CREATE ROLE {ALL_ROWS_ROLE} NOLOGIN;
            END IF;
            IF NOT EXISTS (
                SELECT FROM pg_auth_members m
                 WHERE m.roleid = '{ALL_ROWS_ROLE}'::regrole
                   AND m.member = current_user::regrole AND m.set_option
            ) THEN
                EXECUTE format('GRANT {ALL_ROWS_ROLE} TO %I WITH INHERIT FALSE, SET TRUE', current_user);
            END IF;
            EXECUTE format('GRANT USAGE, CREATE ON SCHEMA public TO {ALL_ROWS_ROLE}');
        END $$;
        GRANT ALL ON ALL TABLES IN SCHEMA public TO {ALL_ROWS_ROLE};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ALL_ROWS_ROLE};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {ALL_ROWS_ROLE};
        ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO {ALL_ROWS_ROLE};
        """,
        migrations.RunSQL.noop,
    )
