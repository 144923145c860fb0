"""How the sums of the loss are taken: dense, in tiles, or fused into one Triton kernel."""
