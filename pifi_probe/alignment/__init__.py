"""From an encoder's tokens to a language model's: the linear interface, and a chain of layers behind it."""
