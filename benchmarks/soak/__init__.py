"""R12, everything that goes wrong at once: `make soak`."""
