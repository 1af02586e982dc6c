"""The AI assistant of the French State in Tchap, its Matrix messenger."""
