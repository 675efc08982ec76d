"""How Great Expectations judges a table: its import, what is counted for it, and its pages."""
