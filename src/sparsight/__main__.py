"""`python -m sparsight`: the command line, in the form that torchrun and accelerate can launch."""

from sparsight.cli import main

if __name__ == "__main__":
    main()
