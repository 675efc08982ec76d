"""A whole federation on one machine, with data that the project makes."""
