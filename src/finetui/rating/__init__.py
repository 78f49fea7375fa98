"""Sealed blind ratings: assignment, ballots, unsealing, statistics, reports, preference export."""
