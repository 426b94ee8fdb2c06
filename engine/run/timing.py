"""How often a run does what, how long it waits for what, and how much it takes at a time."""

from __future__ import annotations

ROUND_SECONDS = 0.04
"""Between two rounds."""
LOOK_SECONDS = 0.8
EAGER_LOOK_SECONDS = 0.1
"""Between two looks at what is due: while lanes are at work, and while there are none."""
SETTLE_SECONDS = 0.2
SETTLE_ROWS = 500
LINGER_SECONDS = 1.0
"""A lane that ran dry is kept this long."""
PATIENCE_SECONDS = 12.0
"""A run with nothing to do does not end while something falls due within this time."""
UNTIL_EMPTY_SECONDS = 60.0
"""`until_empty` waits for what falls due within this time: retries and short rests, not next hour's calls."""
COUNT_SECONDS = 5.0
"""Between two counts of the queue's depth."""
HANDOVER_SECONDS = 1.5
"""The successor is asked for this long before the deadline, so that it stands ready."""
LANES_AT_A_TIME = 100
"""Lanes taken per look: a second runner that looks as well gets its part."""
MOST_LANES = 600
DRAINED_AT_A_TIME = 20
LOCKED_SECONDS = 1.0
"""Flows whose rows somebody else holds are settled again after this long."""
DATABASE_PATIENCE = 60.0
"""A run that cannot settle because the database is away tries this long past its deadline."""
