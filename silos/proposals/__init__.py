"""What is worked out for people to confirm: mappings, contracts, descriptions."""
