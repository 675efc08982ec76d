"""What every run asks besides its algorithm, and the names that protocols have."""
