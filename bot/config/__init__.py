"""The configuration: settings, their types, and the sources they are read from."""
