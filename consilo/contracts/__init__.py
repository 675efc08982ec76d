"""What a table looks like: contracts, their rules, the report of a check."""
