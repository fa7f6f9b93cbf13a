"""Data-parallel training: workers on Ray that train one network together."""
