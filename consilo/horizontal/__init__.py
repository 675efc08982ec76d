"""Silos with the same columns of different people: one algorithm one file, both halves."""
