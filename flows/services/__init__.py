"""What a federation runs on: services, silos of this machine, the connection to them."""
