"""What the hardware costs: device profiles, operator signatures, and the latency tables measured for them."""
