"""Which columns of two tables mean the same."""
