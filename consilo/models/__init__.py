"""A trained model as a folder: written once, read by whoever wants predictions."""
