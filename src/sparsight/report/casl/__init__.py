"""The page of a CASL run: precise edits through aligned latents."""
