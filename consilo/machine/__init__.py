"""Processes, files, the environment: what one machine has."""
