"""Count a step's messages by state as they change: one insert per statement, exact by construction."""

from django.db import migrations

FUNCTION = """
CREATE FUNCTION messaging_tally() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO messaging_messagetally (tenant_id, broadcast_id, step_id, state, n)
        SELECT tenant_id, broadcast_id, step_id, state, count(*)
          FROM new_rows GROUP BY 1, 2, 3, 4;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO messaging_messagetally (tenant_id, broadcast_id, step_id, state, n)
        SELECT tenant_id, broadcast_id, step_id, state, -count(*)
          FROM old_rows GROUP BY 1, 2, 3, 4;
    ELSE
        INSERT INTO messaging_messagetally (tenant_id, broadcast_id, step_id, state, n)
        SELECT tenant_id, broadcast_id, step_id, state, sum(n)
          FROM (SELECT tenant_id, broadcast_id, step_id, state, 1 AS n FROM new_rows
                UNION ALL
                SELECT tenant_id, broadcast_id, step_id, state, -1 FROM old_rows) AS change
         GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER messaging_tally_insert AFTER INSERT ON messaging_message
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION messaging_tally();
CREATE TRIGGER messaging_tally_delete AFTER DELETE ON messaging_message
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION messaging_tally();
CREATE TRIGGER messaging_tally_update AFTER UPDATE ON messaging_message
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION messaging_tally();
"""


class Migration(migrations.Migration):
    dependencies = [("messaging", "0002_walls")]
    operations = [
        migrations.RunSQL(
            FUNCTION,
            """
            DROP TRIGGER messaging_tally_insert ON messaging_message;
            DROP TRIGGER messaging_tally_delete ON messaging_message;
            DROP TRIGGER messaging_tally_update ON messaging_message;
            DROP FUNCTION messaging_tally;
            """,
        )
    ]
