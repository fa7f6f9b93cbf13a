"""Many images through a network: a plan, workers, a manifest; each input ends in one state.

`make_plan` says what becomes which file and refuses what would go wrong as a whole. A `Batch`
holds the output folder, decides what is still to do, and records what was done. A `Worker` does
it: one in this process, or many elsewhere (`jobs.processes.pool`).

>>> plan = make_plan("noisy", "clean")
>>> config = WorkerConfig("model.safetensors", plan.inputs.root, plan.outputs.root)
>>> with Batch(plan, config, settings_of(config)) as batch:
...     report = batch.run(Worker(batch.config).execute)
"""

from n2n.batch.choice import Choice
from n2n.batch.items import Item, Outcome, Report
from n2n.batch.manifest import MANIFEST, open_history
from n2n.batch.plan import Plan, make_plan
from n2n.batch.preview import decisions, preview
from n2n.batch.resume import Resume, key_of
from n2n.batch.run import Batch, Execute, settings_of
from n2n.batch.work import Worker, WorkerConfig

__all__ = [
    "MANIFEST",
    "Batch",
    "Choice",
    "Execute",
    "Item",
    "Outcome",
    "Plan",
    "Report",
    "Resume",
    "Worker",
    "WorkerConfig",
    "decisions",
    "key_of",
    "make_plan",
    "open_history",
    "preview",
    "settings_of",
]
