"""What a model's card says: drawn from the record of its run, and held against it offline."""
