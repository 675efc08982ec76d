"""What all kinds of jobs share: their sections, their JSON, how a file is read.

A kind is one file beside this one; `consilo.jobs.kinds` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from consilo.config import Args, Config, parse, read_yaml
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.finding_words import Form
from consilo.jobs.match import HANDLE
from consilo.jobs.quorum import Deadline, Quorum
from consilo.jobs.recipe import Recipe
from consilo.jobs.split import Split
from consilo.silo_name import JobName, SiloName
from consilo.wire.payload import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consilo.contracts.contract import Contract

_PURPOSE = Form(
    "[a-z][a-z0-9_ -]{0,62}", "lower-case letters, digits, blanks, '_' and '-', a letter first"
)
_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
DottedPath = Annotated[str, Form(_PATH, "module:Name, such as my_model:Net")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_RATE = 1e12
"""No larger step makes an update that is taken for honest work (`consilo.kernel.updates`)."""
MOST_STEPS = 10**9
"""The fastest step takes 0.05 ms: no silo waits the 14 hours of so many for one answer."""
Rate = Annotated[float, Field(gt=0, le=MOST_RATE, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
LEAST_NORM, MOST_NORM = 1e-12, 1e12
"""Between these, clipping to a norm is exact in float64, and its noise is no extreme float32."""


Unit = Literal["record", "subject"]
"""What one ε is about: a row, or a subject with all of its rows."""
ROWS_PER_SUBJECT, MOST_ROWS_PER_SUBJECT = 16, 256
"""``max_rows_per_subject``: unless said, and the most; their gradients are in memory at once."""

OWN_PACKAGES = ("consilo", "silos", "flows")
"""The packages of Consilo itself."""
WAIT_S = 24 * 3600.0
"""How long a round waits at most where the job says that it waits: a request lives no longer."""
UNSTATED = "unstated"
"""The purpose of a job that names none."""


class ModelSpec(Config):
    """Which model: a `torch.nn.Module` by its dotted path.

    The constructor gets ``num_inputs`` and ``num_outputs`` where it accepts them.
    """

    name: DottedPath = Field(
        description="module:Class, of Consilo or beside the job file",
        examples=["consilo.learners.tabular:MLP", "my_model:Net"],
    )
    args: Args = Field(default_factory=dict, description="further arguments, by name")


class Features(Config):
    """How the contract's columns become the model's inputs."""

    standardize: Literal["global", "silo", "contract", "none"] = Field(
        "global",
        description="global: mean and deviation over all silos (their sums leave the silos); "
        "silo: each silo its own (nothing leaves; with privacy, noisy and paid by "
        "statistics_epsilon); contract: the contract's ranges scale to "
        "[-1, 1] (nothing leaves); none",
    )
    standardize_target: Literal["global", "contract", "none"] | None = Field(
        None,
        description="regression: what a model learns is the target less its mean, over its "
        "deviation, and what it answers is told in the target's own units. global: of all silos "
        "(their sums leave; in a vertical job those of the label silo, which stay there); "
        "contract: its range scales to [-1, 1]; none. Unless said: global, or contract where the "
        "job has privacy or the features' moments stay in the silos; none for a loss of one's own",
    )
    missing: Literal["mean", "indicator", "drop"] = Field(
        "mean",
        description="mean: a missing number becomes the mean that standardize takes off (contract: "
        "the middle of the range; none: 0); indicator: besides, a column says so; drop: rows with "
        "a missing feature are left out",
    )
    drop_first: bool = Field(False, description="a category's first allowed value gets no column")


class ProtocolSpec(Config):
    """Which algorithm trains, with its settings."""

    name: str = Field(
        "fedavg",
        description="fedavg, fedprox, fedadam, fedyogi, fedadagrad, fedopt (any torch "
        "optimiser), fedbuff (asynchronous), flower (any Flower strategy); vertical: "
        "vertical_linear, vertical_split, vertical_trees; scoring: vertical_score",
    )
    rounds: int = Field(10, ge=1, le=100_000)
    server_lr: Rate | None = Field(None, description="server learning rate (FedOpt family)")
    betas: tuple[Share, Share] | None = Field(None, description="moment decays (FedAdam, FedYogi)")
    tau: Rate | None = Field(None, description="adaptivity (FedOpt family)")
    mu: float | None = Field(None, ge=0, le=MOST_RATE, description="proximal weight (FedProx)")
    optimizer: DottedPath | None = Field(None, description="fedopt: a torch optimiser's path")
    strategy: DottedPath | None = Field(None, description="flower: a strategy's path")
    buffer: int | None = Field(
        None,
        ge=1,
        description="fedbuff: so many answers make a round; quorum.min_silos unless said",
    )
    max_staleness: int = Field(
        20, ge=0, description="fedbuff: an answer that is late by more rounds is not used"
    )
    args: Args = Field(default_factory=dict, description="further arguments, by name")

    @field_validator("name")
    @classmethod
    def _one_name(cls, value: str) -> str:
        if ":" in value and value.partition(":")[0].partition(".")[0] in OWN_PACKAGES:
            raise ValueError(
                f"'{value}' is a path to one of Consilo's own; those have one name each, such as "
                "fedavg"
            )
        return value


class Local(Config):
    """What one silo computes in one round."""

    batch_size: int = Field(32, ge=1)
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="mini-batches a round")
    epochs: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="passes over the silo's rows a round"
    )
    optimizer: str = Field("sgd", description="a torch.optim name or module:Class")
    lr: Rate = 0.01
    momentum: Share = 0.0
    weight_decay: float = Field(0.0, ge=0, le=MOST_RATE)
    args: Args = Field(default_factory=dict, description="the optimiser's other settings")
    threads: int = Field(
        1,
        ge=1,
        le=1024,
        description="threads that a silo computes a step with, on any machine alike: the last bits "
        "of a sum depend on their number; a silo's policy says how many it gives",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("steps") is not None and value.get("epochs") is not None:
                raise ValueError("give either steps or epochs, not both")
            if value.get("steps") is None and value.get("epochs") is None:
                return {**value, "epochs": 1}
        return value


class Privacy(Config):
    """Differential privacy of all that a silo answers: of its rows, or of whole subjects.

    Of two tables that differ in one row (``unit: record``) or in one subject with all of its rows
    (``unit: subject``), there or not; their number is released exactly.
    """

    unit: Unit = Field(
        "record",
        description="record: one row is hidden; subject: all rows of one subject together, by the "
        "contract's column of role subject: each subject counts as one, however many rows it has",
    )
    max_rows_per_subject: int | None = Field(
        None,
        ge=1,
        le=MOST_ROWS_PER_SUBJECT,
        description="unit subject only: of a subject's rows at most so many are used, chosen by a "
        f"key of the silo; {ROWS_PER_SUBJECT} unless said; privacy does not depend on it",
    )
    epsilon: Positive
    delta: float = Field(gt=0, lt=1)
    max_grad_norm: float = Field(1.0, ge=LEAST_NORM, le=MOST_NORM)
    accountant: Literal["prv", "rdp"] = "prv"
    statistics_epsilon: Positive | None = Field(
        None,
        description="the part of epsilon that each question about statistics costs (moments and "
        "class counts, once a run; histograms, where asked): clipped to the contract's ranges and "
        "noisy; without it they are exact, and outside of epsilon",
    )
    metrics_epsilon: Positive | None = Field(
        None,
        description="the part of epsilon that each evaluation of the finished model on held-out "
        "rows costs: sums over rows, clipped and noisy; without it a private job has no figures "
        "of merit",
    )
    reproducible: bool = Field(
        False,
        description="noise and sampling from the job's seed: for tests and published benchmarks "
        "only, since whoever knows the seed can take the noise away; marked in the record and on "
        "the model",
    )

    @model_validator(mode="before")
    @classmethod
    def _rows_are_bounded_per_subject(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        most = value.get("max_rows_per_subject")
        if value.get("unit") == "subject":
            most = ROWS_PER_SUBJECT if most is None else most
            return {**value, "max_rows_per_subject": most}
        if most is not None:
            raise ValueError("max_rows_per_subject: needs unit: subject")
        return value

    @model_validator(mode="after")
    def _training_gets_something(self) -> Self:
        parts = {
            name: getattr(self, name)
            for name in ("statistics_epsilon", "metrics_epsilon")
            if getattr(self, name) is not None
        }
        if sum(parts.values()) >= self.epsilon:
            verb = "must be" if len(parts) == 1 else "together must be"
            raise ValueError(
                f"{' and '.join(parts)}: {verb} below epsilon ({self.epsilon:g}), of which it is a "
                "part; training needs the rest"
            )
        return self

    @property
    def hides_subjects(self) -> bool:
        """Whether a subject with all of its rows is the unit."""
        return self.unit == "subject"

    def pays(self, price: str) -> bool:
        """Return whether the section has a key for a part of ε: ``epsilon``, or one below it."""
        return bool(price) and getattr(self, price) is not None


class ReduceSpec(Config):
    """How the silos' vectors are combined."""

    rule: Annotated[str, Form(rf"mean|{_PATH}", "mean, or module:name of a rule")] = Field(
        "mean",
        description="mean: weighted by rows; module:function or module:Class, of Consilo or beside "
        "the job file: a rule of your own",
        examples=["mean", "my_rules:coordinate_median"],
    )
    args: Args = Field(default_factory=dict, description="the rule's settings, by name")
    secure: bool = Field(False, description="the coordinator sees the sum only")
    outliers: Literal["reject", "keep"] = Field(
        "reject",
        description="reject: an update whose norm explodes beside those of the rounds before, that "
        "is zero where none was, or that repeats one of the silo's, is not counted; keep: it is",
    )
    codec: Literal["none"] = "none"

    @model_validator(mode="after")
    def _the_mean_has_no_settings(self) -> Self:
        if self.rule == "mean" and self.args:
            raise ValueError(f"args: the mean has no settings, found {', '.join(self.args)}")
        return self


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
SPAN_TOLD = "a number and its unit (s, m, h or d), such as 90s, 30m, 2h or 1d"


def _has_a_unit(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError(f"expected {SPAN_TOLD}")
    return value


Span = Annotated[
    Annotated[str, Form("[1-9][0-9]{0,4}[smhd]", SPAN_TOLD)] | None, BeforeValidator(_has_a_unit)
]
"""A length of time as a job says it; None where it says none."""


def span_s(told: str) -> float:
    """Return the seconds of a `Span`.

    >>> span_s("2h")
    7200.0
    """
    return float(told[:-1]) * _SECONDS[told[-1]]


class QuorumSpec(Config):
    """Who must take part for the run to count, before it and in every round."""

    min_silos: int = Field(2, ge=1)
    min_data_share: Share = 0.0
    mandatory: tuple[SiloName, ...] = ()
    deadline: Literal["auto"] | Positive = Field(
        "auto", description="seconds a round waits for its slowest silo; auto learns it"
    )
    on_loss: Literal["fail", "wait"] = Field(
        "fail",
        description="what a run does that is below its quorum because silos are away. fail: it "
        "ends; wait: it goes on when they are back, and ends when 'for' is over",
    )
    # The key is a word of Python's, so that no statement can name it. In a class's body `locals()`
    # is the class's own namespace, which the language reference promises: it may be written to.
    __annotations__["for"] = Span
    locals()["for"] = Field(
        None,
        description="on_loss wait: how long silos are waited for",
        examples=["2h", "30m"],
    )

    @model_validator(mode="after")
    def _waits_for_a_time(self) -> Self:
        if self.on_loss == "wait" and self.patience_s is None:
            raise ValueError("on_loss: wait needs to know how long: give 'for', such as for: 2h")
        if self.on_loss != "wait" and self.patience_s is not None:
            raise ValueError("for: is how long a run waits: give on_loss: wait, or leave it out")
        return self

    @property
    def patience_s(self) -> float | None:
        """How many seconds silos are waited for whose absence costs the quorum; None: not at all.

        >>> QuorumSpec(**{"on_loss": "wait", "for": "2h"}).patience_s
        7200.0
        """
        told: str | None = getattr(self, "for")
        return None if told is None else span_s(told)

    late: Literal["drop", "wait", "next_round"] = Field(
        "drop",
        description="what is done after the deadline. drop: the round goes on without who is late; "
        "wait: there is none, a round waits as long as a silo's node is connected, a day at most; "
        "next_round: it goes on with its quorum, and a late answer is taken into the round in "
        "which it comes, weighted by 1 / sqrt(1 + the rounds it is late by)",
    )

    @model_validator(mode="after")
    def _who_waits_has_no_deadline(self) -> Self:
        if self.late == "wait" and self.deadline != "auto":
            raise ValueError("late: 'wait' has no deadline; leave out one of the two")
        return self


class Evaluation(Config):
    """What is held out in every silo."""

    holdout: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of each silo's rows; each row's side is its own, by a key of the silo",
    )
    split: str | Split | None = Field(
        None,
        description="in place of holdout: the contract's column of role split, which says 'train' "
        "or 'test'; or which rows by another column's values, by time, or a fold",
    )

    @property
    def named(self) -> Split | None:
        """The split that the job describes; None for a share, and for a column of role split."""
        return self.split if isinstance(self.split, Split) else None


def _itself(value: Any) -> Any:
    return value


class MatchSpec(Config):
    """Which rows of the silos are the same people: how it is found out, and where it is kept."""

    recipe: Annotated[Recipe, BeforeValidator(_itself, json_schema_input_type=str | Recipe)] = (
        Field(description="the keys, or the path of a YAML file beside the job's")
    )
    handle: str | None = Field(
        None, pattern=HANDLE, description="the match's name in every silo; the job's by default"
    )
    hub: SiloName | None = Field(
        None,
        description="the silo that all others are matched with, and that learns who matches whom: "
        "the one with the labels; by default the first",
    )
    contract: str | None = Field(
        None,
        description="whose columns the keys are made of, name@version or a path; every silo has a "
        "mapping to it; the job's by default",
    )
    expires_days: int = Field(90, ge=1, le=3650, description="how long the match may be used")
    max_ambiguous: Share = Field(
        0.05,
        description="share of a silo's entities that may be left out because each of their keys is "
        "another's too; beyond it the run is degraded",
    )


_YOUNG = (
    ("", "match", 2),
    ("", "purpose", 2),
    ("", "exclude", 2),
    ("privacy", "statistics_epsilon", 2),
    ("privacy", "metrics_epsilon", 3),
    ("privacy", "max_rows_per_subject", 3),
    ("local", "threads", 3),
    ("features", "standardize_target", 3),
    ("evaluation", "split", 3),
    ("match", "max_ambiguous", 3),
    ("reduce", "args", 3),
    ("reduce", "outliers", 3),
    ("quorum", "on_loss", 3),
    ("quorum", "for", 3),
    ("", "continues", 3),
    ("", "cohort", 3),
    ("protocol", "buffer", 3),
    ("protocol", "max_staleness", 3),
    ("quorum", "late", 3),
    ("promotion", "four_eyes", 3),
    ("promotion", "quorum", 3),
    ("promotion", "mandatory", 3),
    ("promotion", "min_gain", 3),
    ("promotion", "max_no", 3),
    ("promotion", "max_age", 3),
    ("promotion", "aliases", 3),
    ("", "compare", 3),
)
"""(section, key, wire version): what silos of an older wire version do not know."""
_YOUNG_VALUES = (("reduce", "rule", 3), ("privacy", "unit", 3))
"""(section, key, wire version): of these, older silos know the key, and its default only."""


def _with_recipe(value: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a job's YAML with the recipe that it names by a file put in its place."""
    match = value.get("match")
    if not isinstance(match, dict) or not isinstance(match.get("recipe"), str):
        return value
    recipe = Recipe.load(folder / match["recipe"]).model_dump(mode="json")
    return {**value, "match": {**match, "recipe": recipe}}


class Job(Config):
    """What is asked of silos, whatever its kind: for what, under which contract and quorum.

    A kind says by its class what it does in another way than the rest; nobody asks which it is.
    """

    name: JobName = Field(description="the registered model's name")
    description: str = ""
    purpose: Annotated[str, _PURPOSE] = Field(
        UNSTATED,
        description="what the model is for; silos allow purposes, and rows carry consent for them",
    )
    kind: str
    contract: str = Field(description="name@version, or a path relative to the job file")
    privacy: Privacy | None = None
    quorum: QuorumSpec = QuorumSpec()
    exclude: tuple[SiloName, ...] = Field(
        (), description="silos that are not asked, such as one that left"
    )
    seed: int = Field(0, ge=0)

    reader: ClassVar[Callable[[Any, str], Job]]
    """Makes a job, of whatever kind, of plain values: `consilo.jobs.kinds.read`."""
    kind_since: ClassVar[int]
    """The wire version from which on silos know the kind."""
    rows: ClassVar[Literal["part", "matched"]] = "part"
    """Which rows the job's own protocol uses: those of the contract's part, or of a match."""

    @model_validator(mode="after")
    def _asks_whom_it_needs(self) -> Self:
        both = [name for name in self.quorum.mandatory if name in self.exclude]
        if both:
            raise ValueError(
                f"quorum.mandatory: {', '.join(both)} must take part and, by 'exclude', may not; "
                "leave it out of one of the two"
            )
        if self.quorum.late == "next_round" and self.kind != "horizontal":
            raise ValueError(
                f"quorum.late: a {self.kind} job has no round that a late answer could be taken "
                "into; use drop or wait"
            )
        return self

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return a job as one of this kind.

        Raises:
            IncompatibleJob: where it is of another.
        """
        if not isinstance(job, cls):
            raise IncompatibleJob(f"'{job.name}' is of the kind {job.kind}; {cls.lacking()}")
        return job

    @classmethod
    def lacking(cls) -> str:
        """Return what a job lacks that is not of this kind."""
        return f"expected a {cls.__name__.lower()} job"

    @property
    def algorithm(self) -> str:
        """The name of the protocol that the job is about."""
        raise NotImplementedError

    @property
    def matching(self) -> MatchSpec | None:
        """How the rows are matched that the job is over; None where it does not say."""
        return None

    @property
    def match_spec(self) -> MatchSpec:
        """How the rows are matched that the job is over.

        Raises:
            IncompatibleJob: where the job has no section ``match``.
        """
        if self.matching is None:
            raise IncompatibleJob(
                f"job '{self.name}' has no section 'match'; say at least a recipe"
            )
        return self.matching

    @property
    def threads(self) -> int:
        """How many threads a silo computes a step with."""
        return 1

    @property
    def is_secure(self) -> bool:
        """Whether the coordinator sees sums only."""
        return False

    @property
    def judges_updates(self) -> bool:
        """Whether an update counts only that is like those of the rounds before."""
        return True

    @property
    def code(self) -> tuple[str, ...]:
        """The dotted paths that the job names, ``module:name``; some lie beside its file."""
        return ()

    def asked(self, silos: Iterable[str]) -> tuple[str, ...]:
        """Return who of those that are registered is asked, sorted."""
        return tuple(sorted(set(silos) - set(self.exclude)))

    def part(self, contract: Contract, silo: str) -> Contract:
        """Return what one silo must keep of the job's contract.

        Raises:
            JobInvalid: where the job does not say who holds what.
            IncompatibleJob: where the silo holds nothing.
        """
        return contract

    @property
    def hides_subjects(self) -> bool:
        """Whether the job's ε is about whole subjects: see `Privacy.unit`."""
        return self.privacy is not None and self.privacy.hides_subjects

    def to_match(self) -> Job:
        """Return the job that matches rows ahead, as a run of this one would match them."""
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the job's canonical JSON."""
        return digest(self.to_json())

    @property
    def cohort_quorum(self) -> Quorum:
        """The quorum that every step is held to."""
        spec = self.quorum
        return Quorum(spec.min_silos, spec.min_data_share, spec.mandatory)

    @property
    def deadline(self) -> Deadline:
        """The rule for how long a step waits."""
        if self.quorum.late == "wait":
            return Deadline(fixed_s=WAIT_S)
        fixed = None if self.quorum.deadline == "auto" else float(self.quorum.deadline)
        return Deadline(fixed_s=fixed)

    def to_json(self) -> dict[str, Any]:
        """Return the job as plain JSON values, every default filled in.

        Keys that are younger than the oldest wire version are left out while they have their
        default, so that a silo of a release before understands the job.
        """
        value = self.model_dump(mode="json")
        used = self._said_young_keys()
        for section, key, _ in (("", "kind", 0), *_YOUNG):
            part = value.get(section) if section else value
            if part is not None and f"{section}.{key}".strip(".") not in used:
                part.pop(key, None)
        return value

    def young_keys(self) -> dict[str, int]:
        """Return the wire version that knows each young key that counts in this job."""
        return self._said_young_keys()

    def _said_young_keys(self) -> dict[str, int]:
        """Return the wire version that knows each young key that has not its default value."""
        return dict(self._young)

    @cached_property
    def _young(self) -> dict[str, int]:
        found = {"kind": self.kind_since} if self.kind_since > 1 else {}
        for section, key, since in (*_YOUNG, *_YOUNG_VALUES):
            owner: Any = getattr(self, section, None) if section else self
            known = {} if owner is None else type(owner).model_fields
            if key not in known:
                continue
            if getattr(owner, key) != known[key].get_default(call_default_factory=True):
                found[f"{section}.{key}".strip(".")] = since
        return found

    @classmethod
    def from_json(cls, value: Any) -> Job:
        """Return the job that `to_json` wrote, of whatever kind.

        Raises:
            JobInvalid: with every fault.
        """
        return cls.reader(value, "(in a message)")

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> Job:
        """Return the job in a YAML file, of whatever kind.

        Args:
            path: the file.
            changes: top-level keys to replace, before validation.

        Raises:
            JobInvalid: with every fault, and the nearest known key for one that is unknown.
        """
        path = Path(path)
        value = read_yaml(path, error=JobInvalid)
        if isinstance(value, dict):
            value = _with_recipe({**value, **changes}, path.parent)
        return cls.reader(value, str(path))

    def changed(self, **changes: Any) -> Self:
        """Return a copy with parts replaced; a mapping is merged into its section.

        Raises:
            JobInvalid: where a change does not validate.
        """
        value = merged(self.model_dump(mode="json"), changes)
        return parse(type(self), value, where=self.name, error=JobInvalid)


def merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's plain values with parts replaced; a mapping is merged into its section."""
    found = dict(value)
    for key, change in changes.items():
        old = found.get(key)
        merge = isinstance(change, dict) and isinstance(old, dict)
        kept = old if merge and isinstance(old, dict) else {}
        if key == "local" and merge and {"steps", "epochs"} & set(change):
            kept = {**kept, "steps": None, "epochs": None}
        found[key] = {**kept, **change} if merge else change
    return found
