"""The only importer of torch: trains, generates, scores; one process per job."""
