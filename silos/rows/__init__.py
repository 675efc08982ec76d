"""From an organisation's rows to the canonical table: sources, mapping, consent, check, cache."""
