"""Votes of silos on a trained model."""
