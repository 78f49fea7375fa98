"""Reading data files: one door, one view, whatever the format."""
