"""What the registry knows: tasks, their versions, aliases and settings. Immutable; shared between threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manyhats.core.kinds.fields import PoolingSetting
from manyhats.core.kinds.registry import KnownKind
from manyhats.errors import InvalidRequest, NotFound
from manyhats.messages import first_error
from manyhats.methods.heads import KindName
from manyhats.registry.evaluation import Evaluation
from manyhats.registry.origin import Origin
from manyhats.registry.rollout import Rollout

_SPLIT_LIMIT = 16
Label = Annotated[str, Field(max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TEMPLATE_LIMIT = 100_000  # characters of a chat template; the longest in use have about 20,000
_MAX_STOP_TOKENS = 64
LOWEST = -10  # priority


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What inspecting an adapter folder found. `bytes`: of its weights. `settings`: TaskSettings the files bring.

    `kind`: what the adapter is for by its files, or by what its uploader said; `kinds`: all that its head allows.
    """

    method: str
    kind: KindName
    rank: int | None
    matched_tensors: int
    bytes: int
    base: str | None  # base_model_name_or_path
    labels: tuple[str, ...] | None
    card: str | None  # the text of README.md
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    num_labels: int | None = None  # width of the head; None without one
    references: tuple[str, ...] = ()  # sha256 of the stored contents that this one is made of
    kinds: tuple[KindName, ...] = ()  # none where it was stored before this was known: `kind` alone
    origin: Origin | None = None  # where the files came from; None where they were uploaded

    def allows(self, kind: str) -> bool:
        """Whether the adapter can answer so."""
        return kind in (self.kinds or (self.kind,))

    def require(self, kind: str) -> None:
        """Raises InvalidRequest where the adapter cannot answer so, naming what it can."""
        if not self.allows(kind):
            raise InvalidRequest(
                f"kind is '{kind}', but the adapter can only be: {', '.join(self.kinds or (self.kind,))}", param="kind"
            )


class TaskSettings(BaseModel):
    """What is not weights. None leaves it to the adapter's files, and then to the server.

    `stop_token_ids`: tokens that end a text, beside the backbone's own. `kind`: what the task answers, where the
    adapter's head allows several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: KnownKind | None = None
    labels: list[Label] | None = Field(default=None, min_length=1, max_length=100_000)
    template: str | None = Field(default=None, max_length=10_000)
    max_tokens: int | None = Field(default=None, ge=1)
    overflow: Literal["error", "truncate"] | None = None
    pooling: PoolingSetting | None = None
    normalize: bool | None = None
    prompts: dict[Annotated[str, Field(max_length=1000)], Annotated[str, Field(max_length=20_000)]] | None = Field(
        default=None, max_length=1000
    )
    default_prompt_name: str | None = Field(default=None, max_length=1000)
    include_prompt: bool | None = None
    lower_case: bool | None = None
    system_prompt: str | None = Field(default=None, max_length=20_000)
    chat_template: str | None = Field(default=None, max_length=TEMPLATE_LIMIT)
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=_MAX_STOP_TOKENS)
    defaults: dict[str, Any] = Field(default_factory=dict)
    priority: int = Field(default=0, ge=LOWEST, le=-LOWEST)
    pinned: bool = False

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None and len(set(labels)) != len(labels):
            ((alike, _),) = Counter(labels).most_common(1)
            raise ValueError(f"two labels are called {alike[:100]!r}")
        return labels

    @model_validator(mode="after")
    def _coherent(self) -> TaskSettings:
        if self.template is not None and "{text}" not in self.template:
            raise ValueError("the template must contain {text}")
        if self.prompts is not None and self.default_prompt_name not in (None, *self.prompts):
            raise ValueError(f"default_prompt_name is {self.default_prompt_name!r}, which is not among the prompts")
        return self


def parse_settings(values: Mapping[str, Any]) -> TaskSettings:
    """Settings from a mapping. Raises InvalidRequest that names the field."""
    try:
        return TaskSettings.model_validate(dict(values), strict=True)  # a text that reads like true is none
    except ValidationError as error:
        first = first_error(error)
        name = first.field or "settings"
        raise InvalidRequest(f"{name}: {first.message}", param=name) from None


@dataclass(frozen=True, slots=True)
class Version:
    """One upload of a task's adapter. `created`: unix seconds. `evaluation`: the last, on labelled examples."""

    task: str
    number: int
    sha256: str
    info: AdapterInfo
    created: float
    evaluation: Evaluation | None = None

    @property
    def ref(self) -> str:
        """`task@3`."""
        return f"{self.task}@{self.number}"


@dataclass(frozen=True, slots=True)
class Target:
    """One version that an alias points at, and its share of the requests."""

    version: int
    weight: float = 1.0


def check_split(targets: Sequence[Target]) -> None:
    """Raises InvalidRequest where an alias cannot point at these."""
    if not 1 <= len(targets) <= _SPLIT_LIMIT:
        raise InvalidRequest(f"a split has 1 to {_SPLIT_LIMIT} versions, not {len(targets)}", param="split")
    if len({target.version for target in targets}) != len(targets):
        raise InvalidRequest("a split names each version once", param="split")
    for target in targets:
        if not 0 < target.weight < float("inf"):
            raise InvalidRequest(f"weights are positive numbers, not {target.weight}", param="split")
    if not sum(target.weight for target in targets) < float("inf"):
        raise InvalidRequest("the weights are too large to be added up", param="split")


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is now. `settings` holds only what was set for the task itself, not what its files bring.

    `rollouts`: of the aliases that have more than versions. `lost`: aliases that point at versions that are not there,
    each with what is wrong; only a damaged database has any.
    """

    name: str
    created: float
    settings: TaskSettings
    versions: tuple[Version, ...] = ()
    aliases: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)

    def version(self, number: int) -> Version:
        """One version. Raises NotFound naming those that exist."""
        for version in self.versions:
            if version.number == number:
                return version
        numbers = ", ".join(str(v.number) for v in self.versions[-20:]) or "none"
        raise NotFound(f"The task `{self.name}` has no version {number}; it has {numbers}.", param="version")

    def has(self, targets: Sequence[Target]) -> bool:
        """Whether all that an alias points at is there."""
        numbers = {version.number for version in self.versions}
        return all(target.version in numbers for target in targets)

    def with_alias(self, alias: str, targets: tuple[Target, ...] | None, rollout: Rollout | None = None) -> Task:
        """The task with an alias that points there; with None, without it. `rollout`: what it has besides."""
        others = {a: t for a, t in self.aliases.items() if a != alias}
        lost = {a: reason for a, reason in self.lost.items() if a != alias}
        rollouts = {a: r for a, r in self.rollouts.items() if a != alias}
        return replace(
            self,
            aliases=others | ({} if targets is None else {alias: targets}),
            lost=lost,
            rollouts=rollouts | ({} if rollout is None or rollout.empty else {alias: rollout}),
        )

    def with_version(self, version: Version) -> Task:
        """The task with a version in the place of the one of its number."""
        return replace(self, versions=tuple(version if v.number == version.number else v for v in self.versions))

    def holding(self, number: int) -> list[str]:
        """The aliases that need a version, sorted."""
        own = {a for a, targets in self.aliases.items() if any(target.version == number for target in targets)}
        own |= {a for a, r in self.rollouts.items() if r.shadow is not None and r.shadow.version == number}
        return sorted(own)

    @property
    def stable(self) -> Version | None:
        """The version that `stable` points at (of a split, the one with the largest share)."""
        targets = self.aliases.get("stable")
        if not targets:
            return None
        return self.version(max(targets, key=lambda target: target.weight).version)

    @property
    def stable_versions(self) -> list[Version]:
        """All versions that `stable` points at: one, or those of a split."""
        return [self.version(target.version) for target in self.aliases.get("stable", ())]

    def settings_for(self, version: Version) -> TaskSettings:
        """What holds for a version: what was set for the task, over what the version's files bring.

        Of `defaults` each by itself. Labels set for the task hold only where the version's head has as many outputs,
        its kind only where the version's head allows it; `kind` is always there.
        """
        own = self.settings.model_dump(exclude_unset=True)
        merged = {name: value for name, value in version.info.settings.items() if name in TaskSettings.model_fields}
        merged |= {name: value for name, value in own.items() if value is not None}
        if defaults := version.info.settings.get("defaults"):
            merged["defaults"] = dict(defaults) | self.settings.defaults
        kind = self.settings.kind
        merged["kind"] = kind if kind is not None and version.info.allows(kind) else version.info.kind
        labels = own.get("labels")
        if labels is not None and version.info.num_labels is not None and len(labels) != version.info.num_labels:
            merged["labels"] = version.info.settings.get("labels")
        return TaskSettings.model_construct(**merged)


def check_labels(settings: TaskSettings, info: AdapterInfo) -> None:
    """Raises InvalidRequest for labels that are not one for each output of the head."""
    if settings.labels is not None and len(settings.labels) != info.num_labels:
        raise InvalidRequest(
            f"there are {len(settings.labels)} labels, but the head has {info.num_labels or 'no'} outputs",
            param="labels",
        )
