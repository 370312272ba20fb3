"""The emergence experiment (arXiv 2504.15473): when concepts appear in a text-to-image model, and what can be changed when."""
