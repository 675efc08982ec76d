"""Sections of a job that have a file of their own: what it states, asks, and holds a model to."""
