"""Devices, dtypes, random states and torch's thread-local settings."""
