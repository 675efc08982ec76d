"""The silo's page: for its operator and its data-protection officer, on its own machine."""
