"""Masks: the best one under a pattern, its proof, its share of the network, and training under it (CRISP)."""
