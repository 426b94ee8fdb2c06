"""What the author of an application writes against."""
