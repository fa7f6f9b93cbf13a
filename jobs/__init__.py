"""The commands of n2n: parsing, scheduling, progress, exit codes. One module a job."""
