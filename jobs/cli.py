"""The console script `n2n`: a group that imports a command's module only when it is used."""

from importlib import import_module

import click

from jobs.command import Group

# name: (module that holds it as `main`, its line in `n2n --help`)
COMMANDS = {
    "demo": ("jobs.demo", "Photographs to pairs to a trained denoiser, in two minutes."),
    "data": ("jobs.data", "Make, import and check sets of noisy pairs."),
    "train": ("jobs.train", "Train a denoiser on a pair set, or resume."),
    "adapt": ("jobs.adapt", "Fit a model to noisy images of your own, in minutes."),
    "evaluate": ("jobs.evaluate", "Score models on a pair set."),
    "sweep": ("jobs.sweep", "Find better settings: many trials, on Ray."),
    "denoise": ("jobs.denoise", "Denoise a file or a folder."),
    "models": ("jobs.models", "The models that come with n2n."),
    "report": ("jobs.report", "One HTML page of a run, a sweep or a denoised folder."),
    "cluster": ("jobs.cluster", "Check the file of a Ray cluster before it is started."),
    "submit": ("jobs.submit", "Run any of these on a Ray cluster."),
    "jobs": ("jobs.runs", "List, follow and stop what runs on a cluster."),
    "bench": ("jobs.bench", "Compare speed and memory with torch.nn on this machine."),
}


class LazyGroup(Group):
    """`n2n --help` and `n2n --version` answer without importing torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[name][0]).main
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command("n2n", cls=LazyGroup)
@click.version_option(package_name="n2n", message="n2n %(version)s")
def main() -> None:
    """Denoise images with a network that learned from pairs of noisy images."""


if __name__ == "__main__":
    main()
