"""Figures of a period in words and charts, and how a language writes numbers."""
