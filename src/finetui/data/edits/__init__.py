"""Edits of a data set: the journal, what its steps mean, and how they follow a changed file."""
