"""What models made of trees share: jobs in groups under the Trainer, boosters in the checkpoint, complete or silent."""

from __future__ import annotations

import copy
import logging
import math
import time
from abc import abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.errors import GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.base import DensityModel
from genzoo.models.baselines.mixture_em import in_rows
from genzoo.models.deadline import deadline_of
from genzoo.models.scoring import split_unseen
from genzoo.tables.batch import TableBatch
from genzoo.trees.cluster import Cluster
from genzoo.trees.library import xgboost
from genzoo.trees.pool import default_workers, run_jobs
from genzoo.trees.store import CUT_SHORT, BoosterStore

log = logging.getLogger(__name__)
KEY = "genzoo_boosters"
LEAST_HELD_OUT = 20
"""With fewer validation rows, a share of the training rows is held out instead."""
HELD_OUT_SHARE = 0.15


class TreeModel(DensityModel):
    """An ensemble whose parts are independent jobs (a level of noise, a column).

    An epoch of the Trainer runs one group of jobs, so that progress, the checkpoint after each group and resuming are
    Lightning's. A job is a function of (rows, seed, its name): neither the number of workers nor the grouping changes
    its result, and a resumed run ends with the bytes of an uninterrupted one. Until the last job is done the model
    refuses to score or sample. Under a time limit of the Trainer jobs share the time, and trees that would grow beyond
    it are left out; where not even all first trees fit, the last jobs have none. The model is complete, and smaller.

    Args:
        schema: The table's schema as a plain dictionary.
        groups: Epochs the jobs are spread over (fewer, when the Trainer allows fewer); one checkpoint is written each.
        workers: Threads that grow trees; 0 takes the cores of the machine.
        dask: Grow trees on a Dask cluster: ``local``, or the address of a scheduler; empty uses threads. The result
            does not depend on it, given one build of XGBoost and one type of processor.
        draws: Monte-Carlo draws a row in evaluation.
        seed: Seed of noise and trees.
    """

    closed_form: ClassVar[bool] = True  # no optimiser, no averaged copy, one device

    def __init__(
        self,
        schema: dict[str, Any],
        *,
        groups: int = 10,
        workers: int = 0,
        dask: str = "",
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, draws=draws, seed=seed)
        if groups < 1:
            raise ValueError(f"groups must be at least 1, got {groups}")
        if workers < 0:
            raise ValueError(f"workers must be 0 (all cores) or more, got {workers}")
        self.groups, self.workers, self.dask = groups, workers, dask
        self._cluster: Cluster | None = None
        self.store = BoosterStore()
        self.job_seconds = math.inf
        """Longest time that a job of the group under way grows trees; 0: none."""
        self._useful_seconds = 0.0
        self._rows: tuple[Any, Any] | None = None
        xgboost()

    # ---- what a method writes -------------------------------------------------------------------------------------

    @property
    def graph_obstacle(self) -> str | None:
        return "its trees are no operations on tensors"

    @property
    @abstractmethod
    def jobs(self) -> list[str]:
        """Names of all jobs: from schema and hyper-parameters alone."""

    @abstractmethod
    def run_job(self, job: str, train: Any, held_out: Any) -> dict[str, bytes]:
        """The parts of one job, from encoded training and held-out rows. Called from several threads."""

    def job_stage(self, job: str) -> int:
        """Hook: jobs of a later stage read what earlier ones made; those of one stage are independent."""
        return 0

    def job_cost(self, job: str) -> float:
        """Hook: share of a time limit that a job has beside the others; equal within a stage."""
        return 1.0

    def most_useful_first(self, jobs: list[str]) -> list[str]:
        """Hook: the order of jobs under a time limit; the last may be left without trees."""
        return jobs

    def prepare(self, train: Any, held_out: Any) -> None:
        """Hook: what all jobs need (marginals, covariances), fitted once before the first of them."""

    # ---- events ---------------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Every job is done."""
        return bool(self.codec.fitted) and not self.store.missing(self.jobs)

    @property
    def ready(self) -> bool:
        return self.complete

    @property
    def needs_held_out(self) -> bool:
        """Training looks at rows it does not learn from; too few for validation, some training rows are held out."""
        return True

    def require_complete(self) -> None:
        """Raises unless every job is done.

        Raises:
            GenZooError: says how many are missing, and which.
        """
        missing = self.store.missing(self.jobs)
        if missing:
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise GenZooError(
                f"{type(self).__name__} is not complete: {len(missing)} of {len(self.jobs)} parts are missing "
                f"({names}); "
                "resume its training (genzoo fit --config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt)"
            )

    def on_fit_start(self) -> None:
        self._rows, self._useful_seconds = None, 0.0
        self.trainer.limit_train_batches = 1  # a group of jobs reads all rows at once; batches are not looked at

    def on_fit_end(self) -> None:
        self._rows = None
        self._release()

    def on_exception(self, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def training_step(self, batch: TableBatch, batch_idx: int) -> None:
        missing = self.store.missing(self.jobs)
        # one column alone has no job, and a marginal all the same
        if self._rows is None and (missing or not self.jobs):
            self._rows = self._training_rows()
            if len(missing) == len(self.jobs):
                self.prepare(*self._rows)
        if missing:
            deadline = deadline_of(self)
            size = self._group_size(len(missing))
            if math.isfinite(deadline):
                missing = self.most_useful_first(missing)
                size = -(-size // self._at_once) * self._at_once
            self._run_group(missing[:size], deadline)
            if time.monotonic() >= deadline:
                self._run_group(self.store.missing(missing), deadline)  # without trees
        self.count_step()
        if self.complete:
            self.trainer.should_stop = True
            cut_short = sum(self.store.has(job, CUT_SHORT) for job in self.jobs)
            if cut_short:
                log.warning(
                    f"{type(self).__name__}: the time limit ended the growth of trees in {cut_short} of "
                    f"{len(self.jobs)} parts; the model is complete, and one trained for longer would be better"
                )

    def _run_group(self, group: list[str], deadline: float) -> None:
        """Runs jobs; under a deadline a few at a time, each with its share of the time that is left."""
        for stage in sorted({self.job_stage(job) for job in group}):
            ready = [job for job in group if self.job_stage(job) == stage]
            size = len(ready) if math.isinf(deadline) else self._at_once
            for start in range(0, len(ready), size):
                self._run_in_time(ready[start : start + size], deadline)

    @property
    def _at_once(self) -> int:
        return self.workers or default_workers()

    def _run_in_time(self, jobs: list[str], deadline: float) -> None:
        started = time.monotonic()
        share = self.job_cost(jobs[0]) / sum(map(self.job_cost, self.store.missing(self.jobs)))
        even = max(deadline - started, 0.0) * share * self._at_once
        self.job_seconds = max(even, self._useful_seconds) if even else 0.0
        for job, parts in zip(jobs, self._run(jobs), strict=True):
            self.store.put(job, parts)
        took = time.monotonic() - started
        if took > self.job_seconds > 0:
            # so long takes a job before its first tree: better some with trees than all without
            self._useful_seconds = 2 * took

    def _run(self, jobs: list[str]) -> list[dict[str, bytes]]:
        """Results of independent jobs, by threads or on the cluster."""
        assert self._rows is not None
        rows = self._rows
        if not self.dask:
            return run_jobs(lambda job: self.run_job(job, *rows), jobs, self.workers or None)
        if self._cluster is None:
            self._cluster = Cluster(self.dask, self.workers or None)
        # a copy that can travel: neither the Trainer nor the rows are in it
        travelling = copy.copy(self)
        travelling.__dict__ |= {"_trainer": None, "_fabric": None, "_rows": None, "_cluster": None}
        return self._cluster.run(_run_elsewhere, travelling, rows, jobs)

    def _group_size(self, missing: int) -> int:
        """Jobs of this epoch: an even share, or more if the Trainer ends sooner."""
        size = math.ceil(len(self.jobs) / self.groups)
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            size = max(size, math.ceil(missing / max(1, self.trainer.max_epochs - self.trainer.current_epoch)))
        return size

    def _training_rows(self) -> tuple[Any, Any]:
        """Encoded training rows and held-out rows, in the order of the file."""
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        train, held_out = datamodule.data("train").batch(), datamodule.data("val").batch()
        if self.needs_held_out and len(held_out) < LEAST_HELD_OUT <= len(train):
            generator = torch.Generator().manual_seed(seed_of(self.seed, "held out"))
            apart = torch.rand(len(train), generator=generator) < HELD_OUT_SHARE
            if bool(apart.any()):
                train, held_out = train.select(~apart), train.select(apart)
        return self._inside(train), self._inside(held_out)

    def _inside(self, batch: TableBatch) -> Any:
        """Encoded rows without those beyond declared bounds, on the CPU."""
        encoded: Any = self.codec.encode(split_unseen(batch.to(self.device), self.schema).batch)
        kept: Any = on_cpu(encoded.select((~encoded.outside).nonzero().flatten()))
        return self.weighed(kept)

    def weighed(self, rows: Any) -> Any:
        """Hook: encoded rows with their weights in the form that the jobs read."""
        return in_rows(rows)

    # ---- complete or silent ---------------------------------------------------------------------------------------

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> Any:
        self.codec.require_fitted()
        self.require_complete()
        return super().score_batch(batch, seed, draws)

    def extra_state_for_checkpoint(self) -> dict[str, Any]:
        return {KEY: self.store.to_state()}

    def restore_extra(self, checkpoint: dict[str, Any]) -> None:
        self.store = BoosterStore.from_state(checkpoint[KEY])

    @property
    def num_parameters(self) -> int:
        """Numbers fitted on training rows: four bytes of the store each."""
        return self.store.num_bytes // 4


def _run_elsewhere(model: TreeModel, rows: tuple[Any, Any], job: str) -> dict[str, bytes]:
    torch.set_num_threads(1)
    return model.run_job(job, *rows)


def on_cpu(rows: Any) -> Any:
    """Encoded rows (a dataclass of tensors, or of such dataclasses) in main memory, where trees read them."""
    if rows is None:
        return None
    if isinstance(rows, Tensor):
        return rows.detach().cpu()
    return type(rows)(**{field.name: on_cpu(getattr(rows, field.name)) for field in fields(rows)})
