"""What may be asked: a job and its sections."""
