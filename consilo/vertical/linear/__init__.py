"""Linear and logistic models, exactly those of the pooled table."""
