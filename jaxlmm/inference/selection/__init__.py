"""Which terms a model needs: `terms` tests each, `steps` drops one after another, `advice` for fits on the boundary."""
