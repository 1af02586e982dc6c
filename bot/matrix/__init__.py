"""The Matrix side: the only importer of matrix-nio."""
