"""Whether models are still good, what runs out soon, and who is told."""
