"""Reads what there is about a federation, in batches, with a cache; it writes nothing."""
