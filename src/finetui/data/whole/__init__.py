"""Work on whole data sets with numpy: imported in worker processes only, by name."""
