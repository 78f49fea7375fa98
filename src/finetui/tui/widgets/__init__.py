"""Widgets: they know plain values, never jobs or files."""
