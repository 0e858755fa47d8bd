"""What SAE features do on real text, what they could do, and how the two compare."""
