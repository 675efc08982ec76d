"""What is kept of runs and models: MLflow."""
