"""Measurements: every claim of speed that the documentation makes comes from a command in here."""
