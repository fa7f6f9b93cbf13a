"""The commands of n2n: parsing, scheduling, progress, exit codes.

One module a job, and what jobs share, in folders: `display` (what is shown), `processes` (workers
on Ray), `together` (workers that train one network), `trials` (a sweep's, on Ray Tune),
`clusterfile` (cluster YAMLs) and `remote` (commands sent to a cluster).
"""
