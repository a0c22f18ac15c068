"""What the states of a language model hold, at every depth: features kept by content, and headroom."""
