"""What every format needs: the model, its tokens, a float64 forward pass, the report."""
