"""A model folder: its files, its manifest, reading, verifying and writing it."""
