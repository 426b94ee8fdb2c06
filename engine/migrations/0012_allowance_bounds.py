"""What is left of an allowance is computed without overflow, whatever its limit and whatever was spent.

The view is read where every tenant's requests are looked for: an error in it would stop all of them.
"""

from django.db import migrations

LEFT = """
CREATE OR REPLACE VIEW engine_allowanceleft AS
SELECT a.id, a.tenant_id, a.token_id, a.unit, a."limit", a."window", a.blocked_until,
       used.spent, holds.held,
       CASE WHEN a.blocked_until > now() THEN 0
            ELSE greatest(0, a."limit"::bigint - used.spent - holds.held) END::int AS left_over,
       greatest(CASE WHEN a.blocked_until > now() THEN a.blocked_until END,
                engine_allowance_resets(a."window", a.timezone, used.first_slot)) AS resets_at
  FROM engine_allowance AS a
 CROSS JOIN LATERAL (
    SELECT least(coalesce(sum(u.spent), 0), 2147483647)::int AS spent, min(u.slot) AS first_slot
      FROM engine_allowanceuse AS u
     WHERE u.allowance_id = a.id AND u.slot >= engine_allowance_opens(a."window", a.timezone)) AS used
 CROSS JOIN LATERAL (
    SELECT least(coalesce(sum(h.held), 0), 2147483647)::int AS held FROM engine_allowancehold AS h
     WHERE h.allowance_id = a.id) AS holds;
"""


class Migration(migrations.Migration):
    dependencies = [("engine", "0011_allowance_timezone")]
    operations = [migrations.RunSQL(LEFT, migrations.RunSQL.noop)]
