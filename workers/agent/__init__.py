"""The agent: measures on its machine what jobs of a service elsewhere ask for. Needs `lut`, and no torch."""
