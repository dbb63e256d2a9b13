"""What sentence-transformers saves beside an adapter: pooling, what stands behind it, prompts, limits."""
