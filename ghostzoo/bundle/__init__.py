"""Bundles (model folders): their files and manifest; reading, verifying and writing them."""
