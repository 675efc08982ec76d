"""What silos are asked between two trainings."""
