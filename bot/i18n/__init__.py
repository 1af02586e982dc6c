"""Every sentence for people, in French and English."""
