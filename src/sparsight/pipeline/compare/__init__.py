"""The comparison: every method on the same images, as curves of what it changes against what it damages."""
