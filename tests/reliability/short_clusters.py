"""Settings of a cluster whose tasks are cut off after three seconds, for the tests of what that leaves."""

from config.settings import *  # noqa: F403 - settings of Django are read from a module's names
from config.settings import Q_CLUSTER as OURS

Q_CLUSTER = {**OURS, "timeout": 3, "retry": 30, "workers": 1}
