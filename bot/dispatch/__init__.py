"""From an event to its intent: decide, look up, wait for keys, limit, start once."""
