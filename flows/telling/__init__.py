"""What a run tells while it goes on: its part and round, its name and tags, its tables."""
