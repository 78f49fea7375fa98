"""The tables of a recipe: one module each, one class each."""
