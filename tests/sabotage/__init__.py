"""One-line sabotages of the product, and a proof for each that a test notices it."""
