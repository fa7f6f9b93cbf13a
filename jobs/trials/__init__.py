"""A sweep's trials on Ray: where they run, who goes on, and what becomes of them."""
