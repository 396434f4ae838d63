"""Campaigns against the package: faults, odd input, long runs. Nothing here is installed with it."""
