"""Jobs: folders that detached processes work in, and the evidence they leave."""
