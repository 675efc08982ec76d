"""A network that is split between silos."""
