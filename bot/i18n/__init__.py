"""All sentences for people, in French and English."""
