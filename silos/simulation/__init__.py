"""Silos cut from one table, in processes of this machine."""
