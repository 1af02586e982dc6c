"""Notices that are not answers: explanations, warnings once a day, reports on verifications."""
