"""The stages of one run, without any orchestrator."""
