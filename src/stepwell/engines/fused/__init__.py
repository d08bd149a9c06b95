"""The fused engine: one kernel over all tensors, written from the trace of the rule."""
