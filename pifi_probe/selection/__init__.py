"""Which layer to plug in: candidates, strategies, and how sure the choice is."""
