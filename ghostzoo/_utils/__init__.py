"""What several packages use; no public API."""
