"""Small faults put into the package one at a time, to see whether its tests notice: ``python -m tests.mutation``."""
