"""The fast pass of the checks: sieves over raw blocks, typed rows, two processes."""
