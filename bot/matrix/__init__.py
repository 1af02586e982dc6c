"""The Matrix adapter, and the only importer of matrix-nio."""
