"""Sets, images and values to begin a test with."""
