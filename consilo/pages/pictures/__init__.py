"""Pictures as SVG in the page: each with a title, a description, and its numbers as a table."""
