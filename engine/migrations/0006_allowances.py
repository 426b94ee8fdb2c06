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


# Sliding windows count whole slots: a slot leaves when its last moment does.
LEFT = """
CREATE FUNCTION engine_allowance_slot("window" text, zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE "window"
        WHEN 'hour' THEN date_trunc('minute', now())
        WHEN 'day' THEN date_bin('30 minutes', now(), timestamptz '2000-01-01')
        WHEN 'calendar_day' THEN date_trunc('day', now(), zone)
        ELSE date_trunc('month', now(), zone) END
$$;
CREATE FUNCTION engine_allowance_opens("window" text, zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE "window"
        WHEN 'hour' THEN now() - interval '61 minutes'
        WHEN 'day' THEN now() - interval '24 hours 30 minutes'
        WHEN 'calendar_day' THEN date_trunc('day', now(), zone)
        ELSE date_trunc('month', now(), zone) END
$$;
CREATE FUNCTION engine_allowance_resets("window" text, zone text, first_slot timestamptz)
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT CASE "window"
        WHEN 'hour' THEN first_slot + interval '61 minutes'
        WHEN 'day' THEN first_slot + interval '24 hours 30 minutes'
        WHEN 'calendar_day' THEN (date_trunc('day', now() AT TIME ZONE zone) + interval '1 day') AT TIME ZONE zone
        ELSE (date_trunc('month', now() AT TIME ZONE zone) + interval '1 month') AT TIME ZONE zone END
$$;
CREATE VIEW engine_allowanceleft AS
SELECT a.id, a.tenant_id, a.token_id, a.unit, a."limit", a."window", a.blocked_until,
       used.spent, holds.held,
       CASE WHEN a.blocked_until > now() THEN 0
            ELSE greatest(0, a."limit" - used.spent - holds.held) END::int AS left_over,
       greatest(CASE WHEN a.blocked_until > now() THEN a.blocked_until END,
                engine_allowance_resets(a."window", a.timezone, used.first_slot)) AS resets_at
  FROM engine_allowance AS a
 CROSS JOIN LATERAL (
    SELECT coalesce(sum(u.spent), 0)::int AS spent, min(u.slot) AS first_slot
      FROM engine_allowanceuse AS u
     WHERE u.allowance_id = a.id AND u.slot >= engine_allowance_opens(a."window", a.timezone)) AS used
 CROSS JOIN LATERAL (
    SELECT coalesce(sum(h.held), 0)::int AS held FROM engine_allowancehold AS h
     WHERE h.allowance_id = a.id) AS holds;
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
            LEFT,
            "DROP VIEW engine_allowanceleft; DROP FUNCTION engine_allowance_slot, engine_allowance_opens,"
            " engine_allowance_resets;",
        ),
        migrations.RunSQL(
            OWNER,
            "DROP TRIGGER engine_lane_platform_token ON engine_lane;"
            "DROP TRIGGER engine_allowance_platform_token ON engine_allowance;"
            "DROP FUNCTION engine_platform_token;",
        ),
    ]
