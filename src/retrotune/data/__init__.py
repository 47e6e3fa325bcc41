"""Data: readers of raw records, one record per dataset, and the demo's world. No torch."""
