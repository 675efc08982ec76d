"""What silos and people say of a model, and what follows from it."""
