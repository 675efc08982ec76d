"""Training over columns that different silos hold of the same, matched rows."""
