"""A silo's commands."""
