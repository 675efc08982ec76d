"""Joining a federation and leaving it."""
