"""What a silo keeps: ledger, answers, state of runs, matches, parts of models."""
