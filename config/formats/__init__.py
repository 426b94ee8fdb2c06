"""How dates and times are written: as operators read them, on a clock of 24 hours."""
