"""Campaigns: surveys and announcements to many rooms."""
