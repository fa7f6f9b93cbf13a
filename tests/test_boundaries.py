"""What may be used where: torch in n2n.nn, imports between the parts, nothing on import.

The rules are checked on the source by `ast`, and each check is shown to fail on code that breaks
its rule.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import n2n
import n2n.nn

ROOT = Path(n2n.__file__).parents[1]

# From torch: what the framework and the models are made of, and names for annotations.
FIVE = {"empty", "cat", "arange", "fold", "unfold"}
# Of layers: not exported.
HELPERS = {
    "columns",
    "forms",
    "geometry",
    "interpolation",
    "memory",
    "mirrored",
    "planes",
    "plans",
    "windows",
    "winograd",
}
ANNOTATIONS = {"Tensor", "Generator", "dtype", "device"}
FORBIDDEN = ("torch.nn", "torch.optim", "torch.autograd", "torch.compile", "torch._dynamo")
AUTOGRAD = {"requires_grad", "requires_grad_", "grad_fn", "retain_grad", "register_hook"}


def sources(*places: str) -> list[Path]:
    """The Python files below those places, all of which exist."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        assert files, place
        found += files
    return found


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> str:
    name = module_name(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[ast.stmt, str, str, str | None]]:
    """(statement, module, name bound to, attribute taken from the module or None)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield node, alias.name, bound, None
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                module = ".".join([*parts, module]) if module else ".".join(parts)
            for alias in node.names:
                yield node, module, alias.asname or alias.name, alias.name


def dynamic_imports(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Modules named to import_module() or __import__(), as far as they are written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            if called in ("import_module", "__import__"):
                constants = (*node.args, *(keyword.value for keyword in node.keywords))
                for argument in constants:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield node, argument.value


def torch_names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that the code takes from torch.

    Names are followed through `import torch as t`, `import torch.nn.functional as F` and
    `from torch import nn`; torch itself as a value, such as in getattr(torch, …), is "torch".
    """
    taken: list[tuple[int, str]] = []
    bound: dict[str, str] = {}
    for node, module, name, attribute in imports(tree):
        if module.partition(".")[0] != "torch":
            continue
        if attribute is None:
            bound[name] = module if name != "torch" else "torch"
            if module != "torch":
                taken.append((node.lineno, module))
        else:
            bound[name] = f"{module}.{attribute}"
            taken.append((node.lineno, f"{module}.{attribute}"))
    taken += [
        (node.lineno, module)
        for node, module in dynamic_imports(tree)
        if module.partition(".")[0] == "torch"
    ]
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            path, base = [], node
            while isinstance(base, ast.Attribute):
                path.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id in bound:
                taken.append((node.lineno, ".".join([bound[base.id], *reversed(path)])))
    return taken


def allowed_in_framework(name: str) -> bool:
    """One of the five, or a name for annotations, perhaps with attributes of its own."""
    for prefix in ("torch.nn.functional.", "torch."):
        if name.startswith(prefix):
            first = name.removeprefix(prefix).partition(".")[0]
            if first in {"fold", "unfold"} or (prefix == "torch." and first in FIVE | ANNOTATIONS):
                return True
    return False


def is_below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def rule_of_five(source: str) -> list[str]:
    """Why that source breaks the rule: a line for each fault."""
    tree = ast.parse(source)
    faults = [
        f"line {line}: {name}" for line, name in torch_names(tree) if not allowed_in_framework(name)
    ]
    for node, module, _, attribute in imports(tree):
        root = module.partition(".")[0]
        if isinstance(node, ast.ImportFrom) and node.level:
            continue
        if root not in sys.stdlib_module_names | {"torch", "n2n"}:
            faults.append(f"line {node.lineno}: {module}, neither torch nor the standard library")
        if attribute == "*":
            faults.append(f"line {node.lineno}: everything of {module}")
    return faults + autograd(source)


def autograd(source: str) -> list[str]:
    """Where that source names or uses what torch offers instead of a network from scratch."""
    tree = ast.parse(source)
    faults = [
        f"line {line}: {name}"
        for line, name in torch_names(tree)
        if is_below(name, FORBIDDEN) and not re.fullmatch(r"torch\.nn\.functional\.(un)?fold", name)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in AUTOGRAD:
            faults.append(f"line {node.lineno}: {node.attr}")
        if isinstance(node, ast.keyword) and node.arg in AUTOGRAD:
            faults.append(f"line {node.value.lineno}: {node.arg}")
    return faults


# Which parts may import which others; those not named here may import all of n2n but LAST.
ONLY: dict[str, set[str]] = {
    "n2n.errors": set(),
    "n2n.files": set(),
    "n2n.nn": {"n2n.errors"},
    "n2n.models": {"n2n.errors", "n2n.nn"},
    "n2n.data": {"n2n.errors"},
    "n2n.images": {"n2n.errors", "n2n.files"},
}
LAST = ("n2n.report", "n2n.export")


def part_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def directions(source: str, module: str, package: str) -> list[str]:
    """Imports of `module` that the table of parts does not allow."""
    faults = []
    own = part_of(module)
    tree = ast.parse(source)
    named = [
        (node.lineno, target if attribute is None else f"{target}.{attribute}")
        for node, target, _, attribute in imports(tree, package)
    ]
    named += [(node.lineno, target) for node, target in dynamic_imports(tree)]
    for line, name in named:
        root = name.partition(".")[0]
        if root in ("ray", "click") and not module.startswith("jobs"):
            faults.append(f"{module}, line {line}: {root} belongs to jobs")
        if root == "jobs" and not module.startswith("jobs"):
            faults.append(f"{module}, line {line}: {name}, but imports flow down")
        if root != "n2n" or module.startswith("jobs") or module == "n2n":
            continue
        part = part_of(name)
        upwards = part not in ONLY[own] if own in ONLY else part in LAST and own not in LAST
        if part != own and upwards:
            faults.append(f"{module}, line {line}: {name}, but imports flow down")
    return faults


# The source itself


def test_the_source_is_found() -> None:
    names = {module_name(path) for path in sources("n2n", "jobs")}
    assert {"n2n", "n2n.errors", "n2n.nn", "n2n.nn.conv", "n2n.models", "jobs.cli"} <= names
    assert {part_of(name) for name in names} >= set(ONLY)


@pytest.mark.parametrize("path", sources("n2n/nn", "n2n/models.py"), ids=module_name)
def test_rule_of_five(path: Path) -> None:
    assert rule_of_five(path.read_text()) == []


@pytest.mark.parametrize("path", sources("n2n", "jobs"), ids=module_name)
def test_no_network_of_torch_anywhere(path: Path) -> None:
    assert autograd(path.read_text()) == []


@pytest.mark.parametrize("path", sources("n2n", "jobs"), ids=module_name)
def test_imports_flow_down(path: Path) -> None:
    assert directions(path.read_text(), module_name(path), package_of(path)) == []


def test_errors_import_nothing() -> None:
    assert list(imports(ast.parse((ROOT / "n2n/errors.py").read_text()))) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    """At the top level, where a circle fails or depends on which module is imported first."""
    edges: dict[str, set[str]] = {}
    for path in sources("n2n", "jobs"):
        tree = ast.parse(path.read_text())
        top = ast.Module([node for node in tree.body if not guarded(node)], [])
        edges[module_name(path)] = {
            name
            for _, target, _, attribute in imports(top, package_of(path))
            for name in (target, f"{target}.{attribute}")
        }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail, module])
        if module not in done:
            for other in sorted(edges[module] & edges.keys() - {module}):
                # A package that its own modules import names from has been entered already.
                if not module.startswith(other + "."):
                    visit(other, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def guarded(node: ast.stmt) -> bool:
    """Inside of a function, a class or `if TYPE_CHECKING`: not imported with the module."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If)


# The checks can fail


@pytest.mark.parametrize(
    "source",
    [
        "from torch import relu",
        "from torch import Tensor, zeros",
        "from torch import nn",
        "from torch import *",
        "from torch.nn import Conv2d",
        "from torch.nn import functional",
        "from torch.nn.functional import relu",
        "from torch.nn.functional import *",
        "from torch.linalg import norm",
        "import torch.nn",
        "import torch.nn.functional as F\nF.conv2d(1, 2)",
        "import torch\ntorch.zeros(3)",
        "import torch\ntorch.nn.functional.relu(x)",
        "import torch as t\ny = t.matmul(a, b)",
        "import torch\nf = getattr(torch, 'conv2d')",
        "import torch\nf = torch",
        "import torch.utils.data",
        "def f():\n    from torch import conv2d",
        "if True:\n    import torch\n    torch.set_num_threads(1)",
        "from torch import autograd as a\na.grad(y, x)",
        "from importlib import import_module\nimport_module('torch.nn')",
        "import importlib\nimportlib.import_module('torch.nn')",
        "import importlib\nimportlib.import_module(name='torch.nn')",
        "__import__('torch')",
        "import numpy as np",
        "from numpy import matmul",
        "x.requires_grad_()",
        "from torch import empty\nempty(3, requires_grad=True)",
        "y.grad_fn",
    ],
)
def test_the_rule_of_five_can_be_broken(source: str) -> None:
    assert rule_of_five(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""As torch.nn.Conv2d."""\nfrom torch import Tensor, arange, cat, device, dtype, empty',
        "import torch\ny = torch.empty(3)\nz: torch.Tensor = torch.cat([y, y])",
        "import torch\n\ndef f(g: torch.Generator, d: torch.dtype) -> torch.Tensor: ...",
        "from torch.nn.functional import fold, unfold",
        "import math\nfrom n2n.errors import ShapeError\nfrom .module import Module",
        "from torch import Tensor\nTensor.relu(x)\nx.conv = x.sigmoid().matmul(w)",
        "from torch import Tensor as T\nT.size",
    ],
)
def test_the_rule_of_five_can_be_kept(source: str) -> None:
    assert rule_of_five(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.nn.functional.pad(x, (1, 1))",
        "import torch\nfast = torch.compile(f)",
        "from torch import compile",
        "import torch\n\n@torch.compile\ndef f(): ...",
        "import torch.optim as o",
        "from torch.autograd import Function",
        "import torch\nclass F(torch.autograd.Function): ...",
        "from torch import nn as layers",
        "from torch.optim.lr_scheduler import StepLR",
        "parameter.requires_grad = True",
    ],
)
def test_a_network_of_torch_is_seen(source: str) -> None:
    assert autograd(source)
    assert not autograd("import torch\ntorch.manual_seed(1)\ntorch.set_num_threads(2)")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("n2n.nn.conv", "from n2n import models"),
        ("n2n.nn.conv", "from n2n.models import create"),
        ("n2n.nn.conv", "from ..models import create"),
        ("n2n.nn.conv", "import n2n.data.read"),
        ("n2n.nn.conv", "from n2n import Model"),
        ("n2n.nn.conv", "def late():\n    from n2n.trainer import Trainer"),
        ("n2n.errors", "from n2n.nn import Module"),
        ("n2n.models", "from n2n.data import noise"),
        ("n2n.data.make", "from n2n.nn import Conv2d"),
        ("n2n.data.make", "from n2n.images import load"),
        ("n2n.images", "from n2n.metrics import psnr"),
        ("n2n.trainer", "from n2n.report import figures"),
        ("n2n.trainer", "from jobs.command import Job"),
        ("n2n.trainer", "import ray"),
        ("n2n.trainer", "def f():\n    from ray.tune import Tuner"),
        ("n2n.metrics", "import click"),
        ("n2n.metrics", "from importlib import import_module\nimport_module('ray')"),
        ("n2n", "import click"),
    ],
)
def test_an_import_upwards_is_seen(module: str, source: str) -> None:
    package = module.rpartition(".")[0] or module
    assert directions(source, module, package)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("n2n.nn.conv", "from n2n.nn.module import Module\nfrom .geometry import Span"),
        ("n2n.nn.conv", "from n2n.errors import ShapeError\nfrom n2n import errors"),
        ("n2n.models", "from n2n import nn\nfrom n2n.errors import InvalidValue"),
        ("n2n.trainer", "from n2n import models, nn\nfrom n2n.data import read"),
        ("n2n.report.page", "from n2n.trainer import Trainer\nfrom n2n.report import figures"),
        ("jobs.train", "import click\nimport ray\nfrom n2n.trainer import Trainer"),
    ],
)
def test_imports_downwards_are_allowed(module: str, source: str) -> None:
    assert directions(source, module, module.rpartition(".")[0]) == []


# What is exported

SPECIFIED = """
    Adam AdamW ConstantSchedule Conv2d ConvTranspose2d CosineSchedule L1Loss LeakyReLU MSELoss
    MaxPool2d Module NearestUpsample Parameter PixelShuffle PixelUnshuffle ReLU Residual SGD
    Sequential Sigmoid Skip StepSchedule
"""


def test_all_of_nn_is_complete_and_sorted() -> None:
    exported = n2n.nn.__all__
    assert set(SPECIFIED.split()) <= set(exported)
    # As ruff sorts it: constants, then classes, then functions.
    assert exported == sorted(exported, key=lambda name: (not name.isupper(), name))
    assert len(set(exported)) == len(exported)
    assert all(hasattr(n2n.nn, name) for name in exported)


def test_every_public_layer_loss_optimiser_and_schedule_is_exported() -> None:
    for info in pkgutil.iter_modules(n2n.nn.__path__, "n2n.nn."):
        module = importlib.import_module(info.name)
        assert hasattr(module, "__all__"), f"{info.name} has no __all__"
        if info.name.rpartition(".")[2] in HELPERS:
            continue
        for name, item in inspect.getmembers(module, inspect.isclass):
            own = item.__module__ == info.name and not name.startswith("_")
            assert not own or name in module.__all__, f"{info.name}: {name}"
            if own and name != "Workspace":
                assert name in n2n.nn.__all__, f"{info.name}: {name}"


def test_names_of_the_published_project() -> None:
    for name in ("Conv2d", "ReLU", "Sigmoid", "Sequential", "SGD"):
        assert getattr(n2n, name) is getattr(n2n.nn, name)
    assert n2n.TransposeConv2d is n2n.nn.ConvTranspose2d
    assert n2n.MSE is n2n.nn.MSELoss
    assert isinstance(n2n.Model, type)
    with pytest.raises(AttributeError, match="Dropout"):
        _ = n2n.Dropout


# Nothing happens on import


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Another Python, in which warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


HEAVY = ("torch", "ray", "numpy", "pyarrow", "PIL", "yaml", "scipy", "pandas")


def test_importing_n2n_alone_imports_no_torch(tmp_path: Path) -> None:
    script = f"import n2n, sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    found = python("-c", script, cwd=tmp_path)
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, "", "")


def test_names_of_the_facade_come_when_they_are_asked_for(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from n2n import Conv2d, TransposeConv2d, ReLU, Sigmoid, Sequential, MSE, SGD, Model\n"
        "assert 'torch' in sys.modules and 'ray' not in sys.modules\n"
        "assert 'click' not in sys.modules\n"
    )
    found = python("-c", script, cwd=tmp_path)
    assert found.returncode == 0, found.stderr


SIDE_EFFECTS = """
import importlib, locale, logging, os, pkgutil, random, signal, sys, threading, warnings
import numpy as np
import torch

def state():
    return {
        "threads": torch.get_num_threads(),
        "inter-op threads": torch.get_num_interop_threads(),
        "seed": torch.initial_seed(),
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": str(np.random.get_state()),
        "Python's random state": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.empty(0).device,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "denormals": (torch.tensor([1e-40]) * 1).item(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "log handlers": list(logging.getLogger().handlers),
        "log level": logging.getLogger().level,
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.breakpointhook),
        "search path": list(sys.path),
        "running threads": threading.active_count(),
    }

before = state()
for name in NAMES:
    importlib.import_module(name)
after = state()
print(*(key for key in before if before[key] != after[key]))
"""


@pytest.mark.parametrize("names", [["n2n"], ["n2n.nn"], ["n2n.models"], None], ids=str)
def test_importing_changes_no_global_state(names: list[str] | None, tmp_path: Path) -> None:
    """Nor does it leave anything on the disk. None stands for every module of n2n."""
    if names is None:
        names = [info.name for info in pkgutil.walk_packages(n2n.__path__, "n2n.")]
        assert "n2n.nn.conv" in names
    found = python("-c", SIDE_EFFECTS.replace("NAMES", repr(names)), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "", "changed on import"
    assert found.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "word"), [("--help", "train"), ("--version", "n2n")])
def test_help_imports_no_torch(option: str, word: str, tmp_path: Path) -> None:
    found = python("-X", "importtime", "-m", "jobs.cli", option, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert word in found.stdout
    imported = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "click" in imported
    assert not imported & set(HEAVY)
