"""Worker processes on Ray: a Ray to work on, places on it, bunches of items spread over them."""
