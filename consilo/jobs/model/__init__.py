"""What a job says of its model besides how it is trained."""
