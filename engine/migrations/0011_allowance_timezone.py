"""A time zone that the database does not know would raise in the claims of every tenant: it is kept out."""

from django.db import migrations

KNOWN = """
CREATE FUNCTION engine_timezone_known(zone text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM timestamptz 'epoch' AT TIME ZONE zone;
    RETURN true;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END $$;
UPDATE engine_allowance SET timezone = 'UTC' WHERE NOT engine_timezone_known(timezone);
ALTER TABLE engine_allowance ADD CONSTRAINT allowance_timezone_known CHECK (engine_timezone_known(timezone));
"""


class Migration(migrations.Migration):
    dependencies = [("engine", "0010_lane_without_allowance")]
    operations = [
        migrations.RunSQL(
            KNOWN,
            "ALTER TABLE engine_allowance DROP CONSTRAINT allowance_timezone_known;"
            " DROP FUNCTION engine_timezone_known;",
        )
    ]
