"""A command of n2n sent to a Ray cluster: found, reached, asked, followed.

`head` (where the cluster's head is), `tunnel` (ssh to it), `token` (what lets us in), `client`
(Ray's job API), `paths` (what a command reads and writes, and whether it is there), `code` (what is
sent), `runs` (the jobs of a run id), `logs` (their output, as it comes), `connect` (all of these
together).
"""
