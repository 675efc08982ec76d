"""What travels: payloads, parcels, signatures."""
