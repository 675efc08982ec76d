"""What is let in and out: guard, policy, bundles, partners, audit log."""
