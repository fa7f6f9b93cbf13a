"""What the commands show: progress, tables, plans and outcomes."""
