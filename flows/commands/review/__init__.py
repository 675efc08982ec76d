"""Commands about models that are there: their cards, what is checked, what is decided."""
