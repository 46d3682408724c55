"""Limits of numbers, readable without any library."""

LARGEST = 2**63 - 1
"""Whole number that libraries take."""
