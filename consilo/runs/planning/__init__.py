"""What is known of a run before anything is sent: what its parts are, and whether they fit."""
