"""What people look at: the federation's page and its metrics. It reads, and changes nothing."""
