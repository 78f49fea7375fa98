"""Metrics and the base-against-tuned comparison."""
