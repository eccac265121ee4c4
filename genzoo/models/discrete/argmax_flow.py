"""Argmax flow: a continuous flow whose largest coordinates, or signs, are the symbols of a row."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.bits import bit_width
from genzoo.codecs.tokens import TokenCodec, TokenRows
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.coupling import CouplingFlow
from genzoo.models.flows.dense_rows import DenseRows
from genzoo.models.flows.masked_flow import MaskedFlow
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.flows.symbol_cells import SymbolCells
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

MAX_ROUNDS = 50
MAX_POINTS = 8192
Threshold = Literal["binary", "softplus", "gumbel", "gumbel_threshold"]


class ArgmaxFlow(DensityModel):
    r"""Argmax flow over the symbols of a row, for any table.

    Cells are symbols (categories, atoms, bins of numbers). A flow has a density ``p(v)`` on R^D; a row is what ``v``
    decodes to: the largest of K coordinates, or the signs of ``ceil(log2 K)`` of them. A network reads the row and
    draws ``v`` from a law ``q(v | x)`` that decodes to the row by construction:

    .. math:: P(x) = \int p(v) 1[v \text{ decodes to } x] dv \ge \exp \mathbb{E}_q [\log p(v) - \log q(v \mid x)].

    Likelihood: a lower bound, importance-weighted over ``draws`` draws a row: more are tighter at proportional cost. A
    hole is filled by a learned Gaussian, so that the number is a bound of the marginal of the observed cells. Codes
    that stand for no symbol cost mass in the bound; rows with one are drawn again.

    Imputation: ``particles`` completions a row from the learned law of the holes, one chosen by its weight: exact in
    the limit of many.

    Args:
        schema: The table's schema as a plain dictionary.
        flow: ``autoregressive``: each coordinate moved by a map that the ones before it choose; ``coupling``: draws
            samples in one pass and fits less closely.
        threshold: ``binary``: every symbol in bits, most significant first, each the sign of a coordinate.
            ``softplus``, ``gumbel``, ``gumbel_threshold``: symbols of up to ``max_direct`` values are the largest of as
            many coordinates, kept the largest by that map; longer vocabularies in bits.
        max_direct: See ``threshold``.
        num_bins: Bins of a continuous column, twice as many for a quantized one; ``None``: about ``2 n^(1/3)`` of the
            training rows. Filled up to a power of two.
        num_transforms: Layers of the flow; ``None``: 1 (autoregressive) or 8 (coupling).
        hidden: Units of each hidden layer of the flow; at least the number of coordinates.
        num_layers: Hidden layers of each network of the flow.
        bins: Pieces of each spline of the flow.
        encoder: Units of each of the two hidden layers of ``q``.
        dropout: Probability of dropping a hidden unit in training; ``None``: by the number of training rows.
        particles: Completions a row of which imputations are chosen.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    References:
        Hoogeboom, Nielsen, Jaini, Forre, Welling (2021), Argmax Flows and Multinomial Diffusion, arXiv:2102.05379.
        Differs from the paper: rows of a table instead of text, so masked and coupling perceptrons with
        rational-quadratic splines, not recurrent networks with mixtures of logistics; logistic instead of Gaussian
        noise under a squashing map; learned fillers for holes.
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"particles"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        likelihood="lower_bound",
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 2e-3
    codec: TokenCodec

    def __init__(
        self,
        schema: dict[str, Any],
        flow: Literal["autoregressive", "coupling"] = "autoregressive",
        threshold: Threshold = "binary",
        max_direct: int = 16,
        num_bins: int | None = None,
        num_transforms: int | None = None,
        hidden: int = 256,
        num_layers: int = 2,
        bins: int = 8,
        encoder: int = 128,
        dropout: float | None = None,
        particles: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        if flow not in ("autoregressive", "coupling"):
            raise ValueError(f"flow must be 'autoregressive' or 'coupling', got '{flow}'")
        if threshold not in ("binary", "softplus", "gumbel", "gumbel_threshold"):
            raise ValueError(f"threshold must be binary, softplus, gumbel or gumbel_threshold, got '{threshold}'")
        bits = None if num_bins is None else max(num_bins - 1, 7).bit_length()
        widths = {
            c.name: bit_width(c, self.schema, None if bits is None else bits + (c.kind == "quantized"))
            for c in self.schema.numeric
        }
        self.codec = TokenCodec(
            self.schema, num_bins={c.name: 2 ** widths[c.name] - c.num_atoms for c in self.schema.numeric}
        )
        self.particles = particles
        drop = default_dropout(self.schema) if dropout is None else dropout
        element = Elementwise("spline", bins, 4.0)
        sizes: dict[str, Any] = {"hidden": hidden, "num_layers": num_layers, "dropout": drop, "element": element}

        def build(num_features: int, num_context: int) -> nn.Module:
            if flow == "coupling":
                count = 8 if num_transforms is None else num_transforms
                return CouplingFlow(num_features, num_context, num_transforms=count, seed=self.seed, **sizes)
            count = 1 if num_transforms is None else num_transforms
            return MaskedFlow(num_features, num_context, num_transforms=count, **sizes)

        binary = threshold == "binary"
        self.rows = DenseRows(
            SymbolCells(self.codec),
            build,
            hidden=encoder,
            threshold="softplus" if binary else threshold,
            max_direct=2 if binary else max_direct,
        )

    @property
    def likelihood_kind(self) -> str:
        """A lower bound, whatever the columns are."""
        return "lower_bound"

    def row_losses(self, encoded: TokenRows) -> Tensor:
        """Negative lower bound of the symbols, one draw a row."""
        return self.rows.losses(SymbolCells(self.codec).cells(encoded))

    def model_log_prob(self, encoded: TokenRows, noise: RowNoise, draws: int) -> ModelLogProb:
        parts = []
        for index in torch.arange(len(encoded), device=encoded.tokens.device).split(max(1, MAX_POINTS // draws)):
            cells = SymbolCells(self.codec).cells(encoded.select(index))
            parts.append(self.rows.log_prob(cells, RowNoise(noise.seed, cells.rows), draws))
        se = None if draws == 1 else torch.cat([part.se for part in parts if part.se is not None])
        return ModelLogProb(torch.cat([part.values for part in parts]), se)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        view = SymbolCells(self.codec, generator)
        features = None if context is None or not view.num_context else view.context(context)
        category = self._symbols(num_samples, features, generator)
        for _ in range(MAX_ROUNDS):
            bad = torch.nonzero(~self.codec.meaningful(category).all(1))[:, 0]
            if not len(bad):
                break
            category[bad] = self._symbols(len(bad), None if features is None else features[bad], generator)
        rows = torch.arange(num_samples, device=category.device)
        return view.decode(category.double(), category, rows)

    def _symbols(self, num: int, features: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num, num_slots)`` drawn symbols; a code of bits beyond the vocabulary is out of it here too."""
        surjection = self.rows.surjection
        y = self.rows.density.sample(num, features, generator).to(self.codec.edges.device)
        category = surjection.decode(y)[1].clamp(min=0)
        return torch.where(surjection.invalid(y), surjection.hole_index, category)

    def model_impute(
        self, batch: TableBatch, encoded: TokenRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        view = SymbolCells(self.codec, generator)
        return self.rows.impute(view, batch, view.cells(encoded), draws, generator, self.particles)
