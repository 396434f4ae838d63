"""Presets: TOML files of options that differ from the defaults."""
