"""Prefect orchestration: what the coordinator runs."""
