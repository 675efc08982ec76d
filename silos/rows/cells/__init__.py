"""How one cell is written, and what it is: numbers, dates, formulas over several."""
