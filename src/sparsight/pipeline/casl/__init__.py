"""The CASL experiment (arXiv 2601.15441): harvest, train, align, steer, evaluate, report."""
