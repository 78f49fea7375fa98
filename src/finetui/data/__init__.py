"""Data sets: formats, index, checks, findings, journal, splits, versions."""
