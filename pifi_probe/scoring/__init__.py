"""What a layer's numbers say of a task: estimators, nulls, intervals. Knows no language model."""
