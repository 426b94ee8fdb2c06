"""Whom a platform-owned token serves, as PostgreSQL knows it; owners that stay."""

from django.db import migrations

from tenants.constraints import owner_stays, platform_only
from tenants.scope import ALL_ROWS_ROLE

# Both functions belong to the role that sees all tenants and run as it: they are called by triggers in a
# tenant's own scope, where the platform's rows are not to be seen.
SERVES = f"""
SET LOCAL ROLE {ALL_ROWS_ROLE};
CREATE FUNCTION tenants_token_serves(token bigint, tenant bigint) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM tenants_providertoken t
         WHERE t.id = token AND (
               t.tenant_id = tenant
               OR t.tenant_id IS NULL AND CASE
                  WHEN EXISTS (SELECT FROM tenants_providertoken_usable_by u WHERE u.providertoken_id = token)
                  THEN EXISTS (SELECT FROM tenants_providertoken_usable_by u
                                WHERE u.providertoken_id = token AND u.tenant_id = tenant)
                  ELSE EXISTS (SELECT FROM tenants_tenant w WHERE w.id = tenant AND w.tier = 'standard')
                  END))
$$;
CREATE FUNCTION tenants_usable_by_platform_only() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM tenants_providertoken WHERE id = NEW.providertoken_id AND tenant_id IS NOT NULL) THEN
        RAISE EXCEPTION 'token % belongs to a tenant and serves no other', NEW.providertoken_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'usable_by_platform_only',
                  TABLE = 'tenants_providertoken_usable_by';
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION tenants_owner_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% % stays with its owner', TG_TABLE_NAME, NEW.id
        USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_owner_stays', TABLE = TG_TABLE_NAME;
END $$;
RESET ROLE;
CREATE TRIGGER usable_by_platform_only AFTER INSERT OR UPDATE ON tenants_providertoken_usable_by
    FOR EACH ROW EXECUTE FUNCTION tenants_usable_by_platform_only();
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0006_vendor_account_wall")]
    operations = [
        migrations.RunSQL(
            SERVES,
            f"""
            DROP TRIGGER usable_by_platform_only ON tenants_providertoken_usable_by;
            SET LOCAL ROLE {ALL_ROWS_ROLE};
            DROP FUNCTION tenants_owner_stays;
            DROP FUNCTION tenants_usable_by_platform_only;
            DROP FUNCTION tenants_token_serves;
            RESET ROLE;
            """,
        ),
        platform_only("tenants_providertoken_usable_by"),
        owner_stays("tenants_providertoken"),
    ]
