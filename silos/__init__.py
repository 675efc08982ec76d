"""What an organisation installs: sources, mapping, contract checks, policy, node."""
