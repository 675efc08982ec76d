"""Which rows of the silos are the same people."""
