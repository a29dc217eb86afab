"""What may import what. The rules are checked on the source of every module; each rule is itself tested on a violation."""

import ast
import pathlib
import subprocess
import sys

import pytest

import gm_jax

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "gm_jax").rglob("*.py"))
MODELS = sorted(file.stem for file in (ROOT / "gm_jax/models").glob("*.py") if file.stem != "__init__")
MAX_LINES = 400
CLI = ("cli", "study")

# Parts of gm_jax from the ground up: a part imports those of lower floors only, and itself.
FLOORS = [
    {"errors"},
    {"core"},
    {"settings"},
    {"defaults"},
    {"system"},
    {"images"},
    {"adversarial", "augment", "bijectors", "conditioning", "densities"},
    {"critic_augment"},
    {"diffusion", "nets"},
    {"compose", "flows", "quantized", "sampling", "variational"},
    {"denoising", "game"},
    {"models"},
    {"data", "metrics"},
    {"build"},
    {"training"},
    {"evaluation"},
    {"experiment"},
    {"report"},
    {"cli"},
    {"eval", "pretrained", "study", "train"},
]
# part of gm_jax -> the only parts that it imports besides itself
ALLOWED_PARTS = {
    "core": set(),
    "data": {"core", "errors", "system"},
    "diffusion": {"core", "densities", "errors"},
    "images": {"core", "errors", "system"},
    "metrics": {"core", "errors", "images", "nets", "system"},
    "settings": {"errors"},
}
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, package: str) -> list[str]:
    """Every module that an import statement may load: `from a import b` may load a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        return [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return []


def lies_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """The forbidden imports in the source of `module`, as "module: import"."""
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    top_level = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        for name in imported(node, package):
            if is_forbidden(module, name, lazy=id(node) not in top_level):
                found.append(f"{module}: {name}")
        if isinstance(node, ast.Attribute) and node.attr == "_src":
            found.append(f"{module}: {ast.unparse(node)}")
    return found


def is_forbidden(module: str, name: str, lazy: bool) -> bool:
    part = (module.split(".") + [""])[1]
    if lies_in(name, "torch", "tensorflow", "train", "eval") or "_src" in name.split("."):
        return True
    if lies_in(name, "tensorflow_datasets"):
        return module != "gm_jax.data.tfds" or not lazy
    if lies_in(name, "configs", "ml_collections", "absl"):
        return part not in CLI
    if not lies_in(name, "gm_jax") or name == "gm_jax":
        return False
    target = name.split(".")[1]
    if part == "models" and target == "models":
        return not lies_in(name, module) and name != "gm_jax.models"
    if target in (part, "__version__"):
        return False
    return target not in ALLOWED_PARTS.get(part, {target}) or FLOOR_OF[target] >= FLOOR_OF[part]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_architecture(path):
    assert violations(path.read_text(), module_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gm_jax.core", "from gm_jax import errors"),
        ("gm_jax.diffusion.paths", "from gm_jax.nets.unet import UNet"),
        ("gm_jax.diffusion.paths", "def f():\n    import gm_jax.images"),
        ("gm_jax.images", "from gm_jax.settings import Count"),
        ("gm_jax.training.loop", "from gm_jax.evaluation import watch"),
        ("gm_jax.training.loop", "def f():\n    from gm_jax import experiment"),
        ("gm_jax.build", "from gm_jax.training.restore import restore"),
        ("gm_jax.denoising", "from gm_jax.models import ddpm"),
        ("gm_jax.variational", "from gm_jax.denoising import CLOCKS"),
        ("gm_jax.evaluation.quality", "from gm_jax.report import tables"),
        ("gm_jax.metrics.frechet", "from gm_jax.models.classifier import logits_of"),
        ("gm_jax.nets.unet", "from ..diffusion import paths"),
        ("gm_jax.nets.unet", "from gm_jax import models"),
        ("gm_jax.models.vae", "from gm_jax.training.loop import train"),
        ("gm_jax.models.vae", "from gm_jax.evaluation import draw"),
        ("gm_jax.models.vae", "from gm_jax.models.ddpm import make"),
        ("gm_jax.models.vae", "from gm_jax.models import ddpm"),
        ("gm_jax.models.vae", "from . import ddpm"),
        ("gm_jax.metrics.fid", "import gm_jax.data.sources"),
        ("gm_jax.training.loop", "from ml_collections import ConfigDict"),
        ("gm_jax.experiment", "from absl import flags"),
        ("gm_jax.experiment", "import configs.ddpm"),
        ("gm_jax.experiment", "import train"),
        ("gm_jax.training.loop", "from jax._src import core"),
        ("gm_jax.training.loop", "import jax\njax._src.core"),
        ("gm_jax.training.ema", "import optax._src.base"),
        ("gm_jax.data.tfds", "import tensorflow_datasets as tfds"),
        ("gm_jax.data.sources", "def f():\n    import tensorflow_datasets"),
        ("gm_jax.metrics.inception", "import torch.nn"),
    ],
)
def test_a_violation_is_found(module, source):
    assert violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gm_jax.diffusion.samplers", "from gm_jax.diffusion.paths import Path\nfrom gm_jax.core import Key\nimport jax"),
        ("gm_jax.models.vae", "from gm_jax.nets import resnet\nfrom gm_jax.core import Model"),
        ("gm_jax.cli.config", "from ml_collections import ConfigDict\nfrom gm_jax.cli.presets import base"),
        ("gm_jax.data.tfds", "def f():\n    import tensorflow_datasets as tfds"),
        ("gm_jax.metrics.fid", "import torch_fidelity_is_another_name\nfrom . import statistics"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    assert violations(source, module) == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Ways from a module back to itself, of a graph of imports."""
    found, done = [], set()

    def visit(module, way):
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for target in sorted(imports.get(module, ())):
                visit(target, [*way, module])
            done.add(module)

    for module in imports:
        visit(module, [])
    return found


def test_no_modules_import_each_other_in_a_circle():
    modules = {module_name(path): path for path in SOURCES}
    imports = {}
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        named = {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node, package)}
        imports[module] = {name for name in named if name in modules and name != module and not lies_in(module, name)}
    assert circles(imports) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c", "a"]]


def test_every_part_has_a_floor():
    assert {
        module_name(path).split(".")[1] for path in SOURCES if path.parent != ROOT / "gm_jax" or path.stem != "__init__"
    } == set(FLOOR_OF)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_everything_loads_no_other_framework():
    modules = [module_name(path) for path in SOURCES]
    others = "{'tensorflow', 'torch', 'tensorflow_datasets'}"
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint({others} & set(sys.modules))"
    assert run_python(code).strip() == "set()"


def test_importing_one_model_imports_no_other():
    code = f"""
import importlib, sys
for name in {MODELS}:
    for loaded in [m for m in sys.modules if m.startswith("gm_jax.models")]:
        del sys.modules[loaded]
    importlib.import_module(f"gm_jax.models.{{name}}")
    print(name, *[m for m in sys.modules if m.startswith("gm_jax.models.")])
"""
    assert run_python(code).split("\n")[:-1] == [f"{name} gm_jax.models.{name}" for name in MODELS]


def test_citation_states_the_version():
    assert f"version: {gm_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def untyped(source: str) -> list[str]:
    """Public functions and methods of a module that leave an argument or the result without a type."""
    found = []
    for node in ast.parse(source).body:
        for function in node.body if isinstance(node, ast.ClassDef) else [node]:
            if (
                not isinstance(function, ast.FunctionDef)
                or function.name.startswith("_")
                or getattr(node, "name", "_")[0] == "_"
            ):
                continue
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            if function.returns is None or any(a.annotation is None and a.arg != "self" for a in arguments):
                found.append(function.name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_public_functions_have_types(path):
    assert untyped(path.read_text()) == []


def test_the_rule_of_types_sees_a_violation():
    functions = "def f(x: int): pass\ndef g(x) -> int: pass\ndef _h(x): pass\n"
    source = functions + "class A:\n  def m(self, x): pass\n  def n(self) -> int: pass"
    assert untyped(source) == ["f", "g", "m"]
