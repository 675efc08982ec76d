"""Files for people, made of what a run has found out."""
