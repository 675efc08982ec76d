"""Which columns of two tables mean the same, from what their owners say about them."""
