"""What `make demo` shows: made-up tenants and people, and a real broadcast to the vendors' stand-in."""
