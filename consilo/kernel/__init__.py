"""One loop that drives any protocol: steps, verbs, letters, seeds; no algorithm is named here."""
