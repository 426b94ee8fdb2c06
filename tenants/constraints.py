"""The walls between tenants that PostgreSQL holds, as migration operations."""

from __future__ import annotations

from django.db import migrations

from tenants.scope import ALL_ROWS_ROLE


def same_tenant(table: str, column: str, parent: str, *, on_delete: str = "NO ACTION") -> migrations.RunSQL:
    """Let `table.column` point only at a row of `parent` that belongs to the same tenant.

    `parent` needs a unique constraint on (tenant_id, id). Deferred to the commit, as Django's own are.
    The Django field says `db_constraint=False`: this is its constraint. A row without a tenant, the
    platform's own, is not looked at: what it may point at is said apart.
    """
    name = f"{table}_{column}_same_tenant"[:63]
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (tenant_id, {column}) "
        f"REFERENCES {parent} (tenant_id, id) ON DELETE {on_delete} DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {name}",
    )


def isolate(table: str) -> migrations.RunSQL:
    """Show `table`'s rows to their own tenant only, to the owner of the table included.

    A bigint `=` is leakproof, so indexes are still used under the policy. Where `tenant_id` may be empty
    (`TenantOrPlatformOwned`) nothing more is needed: NULL equals no tenant, so a tenant neither sees the
    platform's rows nor makes any, nor gives its own away.
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


def platform_only(table: str) -> migrations.RunSQL:
    """Show `table` to nobody but those who see all tenants."""
    return migrations.RunSQL(
        f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY every_tenant ON {table} TO {ALL_ROWS_ROLE} USING (true) WITH CHECK (true);
        """,
        f"""
        DROP POLICY every_tenant ON {table};
        ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
        """,
    )


def owner_stays(table: str) -> migrations.RunSQL:
    """Refuse to give a row of `table` to another tenant or to the platform, once it is there.

    What points at a platform-owned row was checked when it was written, not by a foreign key on
    (tenant_id, id). Needs `tenants_owner_stays()` of the migration `tenants.0007`.
    """
    return migrations.RunSQL(
        f"""
        CREATE TRIGGER {table}_owner_stays AFTER UPDATE OF tenant_id ON {table}
            FOR EACH ROW WHEN (OLD.tenant_id IS DISTINCT FROM NEW.tenant_id)
            EXECUTE FUNCTION tenants_owner_stays();
        """,
        f"DROP TRIGGER {table}_owner_stays ON {table};",
    )


def same_tenant_or_platform(table: str, column: str, parent: str) -> list[migrations.RunSQL]:
    """Let `table.column` point at a row of `parent` that is the tenant's own, or the platform's for it.

    `parent` is `engine_lane`, whose token must be usable by the tenant, or `tenants_providertoken` itself.
    Looked at as the row comes in, or is moved: a tenant that a token no longer serves keeps the rows it has.
    Rows that come in are looked at once a statement, pair by pair of tenant and parent, so that 10,000 cost
    about what one does; an UPDATE that touches neither column costs nothing. That the parent exists, and is
    not deleted, is a plain foreign key's part. Returns several operations.
    """
    token = {"engine_lane": "p.token_id", "tenants_providertoken": "p.id"}[parent]
    name = f"{table}_{column}"
    wrong = f"""
        p.tenant_id IS DISTINCT FROM n.tenant_id
        AND NOT (p.tenant_id IS NULL AND tenants_token_serves({token}, n.tenant_id))
    """
    refuse = f"""
        RAISE EXCEPTION '{table}: tenant % may not use {parent} %', wrong.tenant_id, wrong.parent_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = '{name[:50]}_same_tenant',
                  TABLE = '{table}', COLUMN = '{column}'
    """
    return [
        migrations.RunSQL(
            f"ALTER TABLE {table} ADD CONSTRAINT {name[:60]}_fk FOREIGN KEY ({column}) "
            f"REFERENCES {parent} (id) DEFERRABLE INITIALLY DEFERRED",
            f"ALTER TABLE {table} DROP CONSTRAINT {name[:60]}_fk",
        ),
        migrations.RunSQL(
            f"""
            SET LOCAL ROLE {ALL_ROWS_ROLE};  -- the owner of the functions: they see the platform's rows
            CREATE FUNCTION {name}_in() RETURNS trigger LANGUAGE plpgsql
                SECURITY DEFINER SET search_path = public, pg_temp AS $$
            DECLARE wrong record;
            BEGIN
                SELECT n.tenant_id, n.{column} AS parent_id INTO wrong
                  FROM (SELECT DISTINCT tenant_id, {column} FROM came_in WHERE {column} IS NOT NULL) n
                  JOIN {parent} p ON p.id = n.{column}
                 WHERE {wrong} LIMIT 1;
                IF FOUND THEN {refuse}; END IF;
                RETURN NULL;
            END $$;
            CREATE FUNCTION {name}_moved() RETURNS trigger LANGUAGE plpgsql
                SECURITY DEFINER SET search_path = public, pg_temp AS $$
            DECLARE wrong record;
            BEGIN
                SELECT n.tenant_id, n.parent_id INTO wrong
                  FROM (SELECT NEW.tenant_id AS tenant_id, NEW.{column} AS parent_id) n
                  JOIN {parent} p ON p.id = n.parent_id
                 WHERE {wrong};
                IF FOUND THEN {refuse}; END IF;
                RETURN NULL;
            END $$;
            RESET ROLE;
            CREATE TRIGGER {name}_in AFTER INSERT ON {table}
                REFERENCING NEW TABLE AS came_in FOR EACH STATEMENT EXECUTE FUNCTION {name}_in();
            CREATE TRIGGER {name}_moved AFTER UPDATE OF tenant_id, {column} ON {table}
                FOR EACH ROW WHEN (NEW.{column} IS NOT NULL AND
                    (OLD.tenant_id, OLD.{column}) IS DISTINCT FROM (NEW.tenant_id, NEW.{column}))
                EXECUTE FUNCTION {name}_moved();
            """,
            f"""
            DROP TRIGGER {name}_in ON {table};
            DROP TRIGGER {name}_moved ON {table};
            SET LOCAL ROLE {ALL_ROWS_ROLE};
            DROP FUNCTION {name}_in;
            DROP FUNCTION {name}_moved;
            RESET ROLE;
            """,
        ),
    ]


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
                BEGIN
                    CREATE ROLE {ALL_ROWS_ROLE} NOLOGIN;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN
                    NULL;  -- roles are the server's: another database was set up at the same moment
                END;
            END IF;
            IF NOT EXISTS (
                SELECT FROM pg_auth_members m
                 WHERE m.roleid = '{ALL_ROWS_ROLE}'::regrole
                   AND m.member = current_user::regrole AND m.set_option
            ) THEN
                BEGIN
                    EXECUTE format('GRANT {ALL_ROWS_ROLE} TO %I WITH INHERIT FALSE, SET TRUE', current_user);
                EXCEPTION WHEN unique_violation THEN
                    NULL;
                END;
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
