"""Reports of feedback: figures in words and charts, with numbers formatted for a language."""
