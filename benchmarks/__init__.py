"""Measurements of the real code under load, each a command with a printed table; not shipped."""
