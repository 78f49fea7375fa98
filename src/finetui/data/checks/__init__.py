"""Checks of data sets: one small function each, listed in `registry`."""
