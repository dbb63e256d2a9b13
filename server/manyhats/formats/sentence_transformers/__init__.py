"""sentence-transformers' files with an adapter: pooling, the modules after it, prompts, limits."""
