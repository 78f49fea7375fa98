"""The rules of advice, one module a part of the recipe; a new rule is one function."""
