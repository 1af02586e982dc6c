"""The model side: the only importer of openai."""
