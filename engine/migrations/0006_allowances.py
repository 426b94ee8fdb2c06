"""A token's hourly allowance is a row of the engine's, whoever edits it; a lane belongs to its token's owner."""

from django.db import migrations

from tenants.constraints import same_tenant

HOURLY = """
CREATE FUNCTION engine_hourly_allowance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.hourly_allowance IS NULL THEN
        DELETE FROM engine_allowancehold WHERE allowance_id IN (
            SELECT id FROM engine_allowance WHERE token_id = NEW.id AND unit = 'calls' AND "window" = 'hour');
        DELETE FROM engine_allowanceuse WHERE allowance_id IN (
            SELECT id FROM engine_allowance WHERE token_id = NEW.id AND unit = 'calls' AND "window" = 'hour');
        DELETE FROM engine_allowance WHERE token_id = NEW.id AND unit = 'calls' AND "window" = 'hour';
    ELSE
        INSERT INTO engine_allowance AS a (tenant_id, token_id, unit, "limit", "window", timezone)
        VALUES (NEW.tenant_id, NEW.id, 'calls', NEW.hourly_allowance, 'hour', 'UTC')
        ON CONFLICT (token_id, unit, "window") DO UPDATE SET "limit" = excluded."limit"
         WHERE a."limit" <> excluded."limit";
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER engine_hourly_allowance AFTER INSERT OR UPDATE OF hourly_allowance ON tenants_providertoken
    FOR EACH ROW EXECUTE FUNCTION engine_hourly_allowance();
INSERT INTO engine_allowance (tenant_id, token_id, unit, "limit", "window", timezone)
SELECT tenant_id, id, 'calls', hourly_allowance, 'hour', 'UTC'
  FROM tenants_providertoken WHERE hourly_allowance IS NOT NULL;
"""

# The composite foreign key does not look at rows without a tenant: a platform-owned lane is checked here.
OWNER = """
CREATE FUNCTION engine_platform_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenants_providertoken WHERE id = NEW.token_id AND tenant_id IS NULL) THEN
        RAISE EXCEPTION 'token % is not the platform''s own', NEW.token_id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = TG_TABLE_NAME || '_platform_token';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER engine_lane_platform_token AFTER INSERT OR UPDATE OF tenant_id, token_id ON engine_lane
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.tenant_id IS NULL)
    EXECUTE FUNCTION engine_platform_token();
CREATE CONSTRAINT TRIGGER engine_allowance_platform_token
    AFTER INSERT OR UPDATE OF tenant_id, token_id ON engine_allowance
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.tenant_id IS NULL)
    EXECUTE FUNCTION engine_platform_token();
"""


class Migration(migrations.Migration):
    dependencies = [("engine", "0005_second_edition"), ("tenants", "0006_vendor_account_wall")]
    operations = [
        same_tenant("engine_allowance", "token_id", "tenants_providertoken", on_delete="CASCADE"),
        migrations.RunSQL(
            HOURLY,
            "DROP TRIGGER engine_hourly_allowance ON tenants_providertoken; DROP FUNCTION engine_hourly_allowance;",
        ),
        migrations.RunSQL(
            OWNER,
            "DROP TRIGGER engine_lane_platform_token ON engine_lane;"
            "DROP TRIGGER engine_allowance_platform_token ON engine_allowance;"
            "DROP FUNCTION engine_platform_token;",
        ),
    ]
