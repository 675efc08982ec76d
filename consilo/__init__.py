"""Consilo: federated learning across organisations, run the way a team runs a data pipeline."""
