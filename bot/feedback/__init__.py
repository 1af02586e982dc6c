"""Feedback on replies: polls, votes, thumbs and comments."""
