"""Summaries of rows and of fits, for the diagnosis."""
