"""Campaigns: questions or announcements to many rooms."""
