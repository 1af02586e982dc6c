"""The configuration: settings, their types, and where they are read from."""
