"""Private set intersection: which keys two silos share, and nothing of the others."""
