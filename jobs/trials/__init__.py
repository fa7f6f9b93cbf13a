"""A sweep's trials on Ray Tune: where they run, who goes on, and what becomes of them."""
