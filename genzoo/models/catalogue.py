"""The models GenZoo knows, as one static table: read by the command line without importing torch.

A test holds every entry against its class. Models of other packages join by an entry point of the group
``genzoo.models`` whose name is the key and whose value is the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genzoo.errors import GenZooError
from genzoo.models.capabilities import Capabilities


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue.

    Args:
        key: Name on the command line.
        class_path: Where the class is.
        summary: One sentence: what it models.
        paper: Authors, year, title or identifier.
        capabilities: Equal to the class's own.
        recipe: Name of a complete configuration in ``configs/recipes``, or empty.
        group: Family, for the printed list.
    """

    key: str
    class_path: str
    summary: str
    paper: str
    capabilities: Capabilities
    recipe: str = ""
    group: str = "baselines"

    @property
    def class_name(self) -> str:
        return self.class_path.rpartition(".")[2]


_AUTOREGRESSIVE = Capabilities(
    missing="exact", context=True, context_missing=True, imputes=True, uses_mask=True, by_column=True, weights=True
)

_ENTRIES = (
    Entry(
        key="independent",
        class_path="genzoo.models.baselines.independent.Independent",
        summary="Product of smooth marginals: the floor every other model should beat.",
        paper="standard; closed form",
        capabilities=Capabilities(
            missing="exact", context=True, context_missing=True, imputes=True, by_column=True, weights=True
        ),
    ),
    Entry(
        key="gaussian",
        class_path="genzoo.models.baselines.gaussian.Gaussian",
        summary="One Gaussian with full covariance over the numbers, categories independent of them.",
        paper="Geweke (1991), Hajivassiliou and McFadden (1998) for the cells of a grid",
        capabilities=Capabilities(missing="exact", quantized="lower_bound", imputes=True, weights=True),
    ),
    Entry(
        key="mixture",
        class_path="genzoo.models.baselines.mixture.GaussianMixture",
        summary="Mixture of Gaussians over the numbers times multinomials over the categories.",
        paper="Dempster, Laird and Rubin (1977)",
        capabilities=Capabilities(missing="exact", quantized="lower_bound", imputes=True, weights=True),
    ),
    Entry(
        key="maf",
        class_path="genzoo.models.flows.maf.MAF",
        summary="Masked autoregressive flow: Gaussian conditionals, made flexible by stacking; exact on mixed rows.",
        paper="Papamakarios, Pavlakou and Murray (2017), arXiv:1705.07057",
        capabilities=_AUTOREGRESSIVE,
        group="flows",
    ),
    Entry(
        key="spline_flow",
        class_path="genzoo.models.flows.spline_flow.SplineFlow",
        summary="Rational-quadratic spline flow, autoregressive (exact on mixed rows) or coupling.",
        paper="Durkan, Bekasov, Murray and Papamakarios (2019), arXiv:1906.04032",
        capabilities=_AUTOREGRESSIVE,
        recipe="adult_spline_flow",
        group="flows",
    ),
    Entry(
        key="tail_adaptive_flow",
        class_path="genzoo.models.flows.tail_adaptive_flow.TailAdaptiveFlow",
        summary="Spline flow with light or heavy tails per column, by its base density or by a last layer.",
        paper="Laszkiewicz et al. (2022), arXiv:2206.10311; Hickling and Prangle (2025), arXiv:2406.16971",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            weights=True,
        ),
        recipe="danish_fire_tail_adaptive_flow",
        group="flows",
    ),
    Entry(
        key="ebflow",
        class_path="genzoo.models.flows.ebflow.EBFlow",
        summary="Flow with free matrices, trained by score matching without determinants; pictures and tables.",
        paper="Chao, Sun, Hsu, Kira and Lee (2023), arXiv:2305.15267",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            sequences=True,
        ),
        recipe="mnist_ebflow_ssm",
        group="flows",
    ),
    Entry(
        key="residual_flow",
        class_path="genzoo.models.flows.residual_flow.ResidualFlow",
        summary="Free-form maps near the identity, inverted by iteration; exact up to 64 numbers, unbiased beyond.",
        paper="Chen, Behrmann, Duvenaud and Jacobsen (2019), arXiv:1906.02735",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            sequences=True,
            weights=True,
        ),
        recipe="eight_gaussians_residual_flow",
        group="flows",
    ),
    Entry(
        key="fair_flow",
        class_path="genzoo.models.flows.fair_flow.FairFlow",
        summary="Encodes each group by its own bijection, so that no one can tell the group; with a certificate.",
        paper="Balunovic, Ruoss and Vechev (2022), arXiv:2106.05937",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            stages=("density", "encoder"),
            roles=("sensitive",),
        ),
        recipe="stripes_fair_flow",
        group="flows",
    ),
    Entry(
        key="interventional_flow",
        class_path="genzoo.models.flows.interventional_flow.InterventionalFlow",
        summary="Density of an outcome under each treatment, p(Y[a]), doubly robust, from observational rows.",
        paper="Melnychuk, Frauen and Feuerriegel (2023), arXiv:2209.06203",
        capabilities=Capabilities(
            kinds=("continuous", "quantized"),
            missing="exact",
            context=True,
            context_missing=True,
            by_column=True,
            stages=("nuisance", "measure", "target"),
            roles=("treatment", "outcome"),
            estimand="interventional",
        ),
        recipe="scm_interventional_flow",
        group="flows",
    ),
    Entry(
        key="forest_autoregressive",
        class_path="genzoo.models.trees.forest_autoregressive.ForestAutoregressive",
        summary="Autoregressive tree ensemble: a boosted classifier of bins a column; exact on mixed rows.",
        paper="McCarter (2025), Unmasking Trees for tabular data, TMLR",
        capabilities=_AUTOREGRESSIVE,
        recipe="adult_forest_autoregressive",
        group="trees",
    ),
    Entry(
        key="forest_flow",
        class_path="genzoo.models.trees.forest_flow.ForestFlow",
        summary="Tree-based flow matching as a latent-variable model: samples, imputations and a likelihood bound.",
        paper="Jolicoeur-Martineau, Fatras and Kachman (2024), arXiv:2309.09968",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            uses_mask=True,
            weights=True,
        ),
        group="trees",
    ),
    Entry(
        key="forest_diffusion",
        class_path="genzoo.models.trees.forest_diffusion.ForestDiffusion",
        summary="Tree-based diffusion, variance-preserving path: samples, RePaint imputation, a likelihood bound.",
        paper="Jolicoeur-Martineau, Fatras and Kachman (2024), arXiv:2309.09968",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            uses_mask=True,
            weights=True,
        ),
        group="trees",
    ),
    Entry(
        key="radd",
        class_path="genzoo.models.discrete.radd.RADD",
        summary="Masked diffusion over symbols: any-order likelihood (exact on narrow tables), imputes any cells.",
        paper="Ou et al. (2025), arXiv:2406.03736",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            sequences=True,
            weights=True,
        ),
        recipe="adult_radd",
        group="discrete",
    ),
    Entry(
        key="gidd",
        class_path="genzoo.models.discrete.gidd.GIDD",
        summary="Discrete diffusion that masks and replaces symbols: it can revise what it has written.",
        paper="von Ruette et al. (2025), arXiv:2503.04482",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            uses_mask=True,
            sequences=True,
            weights=True,
        ),
        recipe="adult_gidd",
        group="discrete",
    ),
    Entry(
        key="multinomial_diffusion",
        class_path="genzoo.models.discrete.multinomial_diffusion.MultinomialDiffusion",
        summary="Uniform replacement of symbols in discrete steps, restored by the analytic posterior.",
        paper="Hoogeboom et al. (2021), arXiv:2102.05379",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            uses_mask=True,
            sequences=True,
            weights=True,
        ),
        recipe="adult_multinomial_diffusion",
        group="discrete",
    ),
    Entry(
        key="binary_diffusion",
        class_path="genzoo.models.discrete.binary_diffusion.BinaryDiffusion",
        summary="Diffusion over the bits of a row, which flip at random; guided samples for given context.",
        paper="Kinakh and Voloshynovskiy (2024), arXiv:2409.13882",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            uses_mask=True,
            weights=True,
        ),
        recipe="adult_binary_diffusion",
        group="discrete",
    ),
    Entry(
        key="argmax_flow",
        class_path="genzoo.models.discrete.argmax_flow.ArgmaxFlow",
        summary="Continuous flow whose signs or largest coordinates are the symbols of a row.",
        paper="Hoogeboom et al. (2021), arXiv:2102.05379",
        capabilities=Capabilities(
            missing="lower_bound",
            context=True,
            context_missing=True,
            likelihood="lower_bound",
            quantized="lower_bound",
            categorical="lower_bound",
            imputes=True,
            weights=True,
        ),
        recipe="adult_argmax_flow",
        group="discrete",
    ),
)

CATALOGUE: dict[str, Entry] = {entry.key: entry for entry in _ENTRIES}


def outside_models() -> dict[str, EntryPoint]:
    """Models of other installed packages, by entry point name."""
    return {point.name: point for point in entry_points(group="genzoo.models")}


def model_names() -> list[str]:
    """Every name ``--models`` accepts."""
    return [*CATALOGUE, *sorted(set(outside_models()) - set(CATALOGUE))]


def find(name: str) -> str:
    """Class path of a catalogue key, a class name, an entry point or a class path.

    Raises:
        GenZooError: no such model; the message offers the nearest names.
    """
    if name in CATALOGUE:
        return CATALOGUE[name].class_path
    for entry in CATALOGUE.values():
        if name in (entry.class_name, entry.class_path):
            return entry.class_path
    points = outside_models()
    if name in points:
        return points[name].value.replace(":", ".")
    if "." in name:
        return name
    names = model_names()
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    raise GenZooError(f"unknown model '{name}'; {hint}")


def model_class(name: str) -> Any:
    """The class behind a name; imports torch."""
    path = find(name)
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise GenZooError(f"model '{name}' cannot be imported from '{path}': {error}") from error


def alternatives(accepts: Callable[[Capabilities], bool]) -> list[str]:
    """Catalogue keys whose capabilities satisfy a condition; for error messages."""
    return [key for key, entry in CATALOGUE.items() if accepts(entry.capabilities)]
