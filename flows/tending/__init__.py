"""What `consilo up` does every few minutes, so that nothing stays that nobody owns."""
