"""Hash-chained logs, the run record, and one held against the other."""
