"""One run's settings: schema, advice, forecast and TOML files (pure)."""
