"""Runs in which silos vote on a trained model."""
