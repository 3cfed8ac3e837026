"""What strangers' bytes must not do, tried with bytes that nobody would think of."""
