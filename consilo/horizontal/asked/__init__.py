"""What people ask of the silos' rows: tables on the cells that the contract declares."""
