"""The pure part: values and decisions, without clock, input or output."""
