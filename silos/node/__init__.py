"""A silo's node: takes requests and answers each in a child process."""
