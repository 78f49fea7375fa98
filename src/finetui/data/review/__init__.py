"""The review queue: production failures and candidate rows, decided by a person."""
