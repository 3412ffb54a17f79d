"""Who asks, what they may do, how much of it, and what is remembered of it."""
