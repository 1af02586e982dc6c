"""Notices that are no answers: sent to a person once a day, or to the admins."""
