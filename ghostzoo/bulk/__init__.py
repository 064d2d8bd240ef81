"""Batch work: pictures from any storage, results as rows, on one machine or on clusters that others manage."""
