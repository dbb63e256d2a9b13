"""Every setting of the server: a command-line option, an environment variable and a line of a TOML file."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from manyhats.errors import WrongSetting
from manyhats.messages import first_error


def _split(value: Any) -> Any:
    """Texts from one text with commas between them."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _some_keys(value: Any) -> Any:
    """Keys from one text, or from a list. Nothing where keys are meant to be is a slip that would open the server."""
    keys = _split(value)
    if value != () and isinstance(keys, list | tuple):
        keys = tuple(key.strip() if isinstance(key, str) else key for key in keys)
        if not keys or "" in keys:
            raise ValueError("it is given, but a key is empty; to run without keys, leave the setting out altogether")
    return keys


def _folder(value: Any) -> Any:
    """A folder of this machine. An address would become a folder with the scheme's name."""
    if _ADDRESS.match(str(value)):
        raise ValueError("a store is a folder on this machine; addresses such as s3:// are not supported")
    return value


def _database(value: Any) -> Any:
    """The address of a PostgreSQL, or none."""
    if value and not re.match(r"postgres(ql)?://", str(value)):
        raise ValueError("write postgresql://user@host:5432/name, or nothing for SQLite in the store")
    return value


def _http_address(value: Any) -> Any:
    """The address of an HTTP server, or none."""
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", str(value)):
        raise ValueError("write the address of an OTLP receiver, as http://127.0.0.1:4318")
    return value


def _hosts(value: Any) -> Any:
    """Host names, each plain, `*` or `*.example.com`."""
    names = _split(value)
    for name in names if isinstance(names, list | tuple) else ():
        if not isinstance(name, str) or not _HOST.fullmatch(name):
            raise ValueError(f"{name!r} is no host name; write names without scheme and port, *.example.com, or *")
    return names


def _origins(value: Any) -> Any:
    """Origins as browsers write them."""
    origins = _split(value)
    for origin in origins if isinstance(origins, list | tuple) else ():
        if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is no origin; write https://app.example.com, with its port if it has one, or *"
            )
    return tuple(origin.lower() for origin in origins) if isinstance(origins, list | tuple) else origins


logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: that is what a path leaves of two
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
# By a setting's name what it was called before, for one release.
_FORMER = {"max_num_batched_tokens": ("batch_tokens", "step_tokens"), "max_num_seqs": ("max_texts",)}
_DAY = 86_400.0  # seconds; infinity is no time that anything can wait for

Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_some_keys)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]


class Settings(BaseSettings):
    """The server's settings. What is given on the command line wins over the environment, and that over the file."""

    model_config = SettingsConfigDict(env_prefix="MANYHATS_", extra="forbid", frozen=True)

    backbone: str = Field("", description="the frozen model: a folder, a hub id, or package:NAME")
    store: Annotated[Path, BeforeValidator(_folder)] = Field(
        Path("adapters_store"), description="folder of the registry and the adapters"
    )
    database_url: Annotated[str, BeforeValidator(_database)] = Field(
        "",
        description="PostgreSQL (15 or newer) that several servers may share, postgresql://user@host:5432/name; none: "
        "SQLite in the store",
    )
    database_migrate: bool = Field(
        False, description="bring a PostgreSQL of an older Manyhats up to date at the start, as `manyhats migrate` does"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto, float32, bfloat16, float16"
    )
    quantization: Literal["none", "int8", "fp8"] = Field(
        "none",
        description="keep the blocks' linear weights in 8 bits, with torchao: int8, fp8; products stay in dtype",
    )
    tf32: bool = Field(
        False,
        description="let CUDA round the inputs of products in float32 to TF32, which is faster; answers then differ "
        "from float32's in the third digit",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves torch's choice")

    weight_layout: Literal["auto", "plain"] = Field(
        "auto", description="auto: a second copy of the weights as the CPU reads them fastest, where memory allows"
    )

    kernels: str = Field(
        "auto", description="what does the adapters' operations: auto, or one that `manyhats doctor` names"
    )
    deterministic: bool = Field(
        False,
        description="choose no kernel by measuring at the start, so that every start gives the same bits; a CPU then "
        "reads the weights as they are, which makes generation slower",
    )

    self_check: bool = Field(
        True,
        description="compare the packed pass with the unmodified model at the start, and end where they differ",
    )

    max_num_batched_tokens: int = Field(
        0,
        ge=0,
        description="maximum tokens of one pass; 0: 2048 on a CPU, elsewhere 16384 or as many as its memory allows; "
        "for decoders 512 and 8192",
    )
    batch_wait: float = Field(
        0.5, ge=0, description="how long a pass waits at most for clients that were just answered, in predicted passes"
    )
    max_num_seqs: int = Field(64, ge=1, description="maximum sequences that generate at once")
    enforce_eager: bool = Field(
        False, description="run decode steps without CUDA graphs; on other devices they always run so"
    )
    batch_tokens: int | None = Field(None, description="deprecated: max_num_batched_tokens")
    step_tokens: int | None = Field(None, description="deprecated: max_num_batched_tokens")
    max_texts: int | None = Field(None, description="deprecated: max_num_seqs")
    cache_memory: ByteSize = Field(ByteSize(2 << 30), description="maximum bytes of keys and values of sequences")
    queue_per_task: int = Field(4096, ge=1, description="maximum inputs of one task that may wait")
    queue_total: int = Field(16384, ge=1, description="maximum inputs of all tasks that may wait")
    request_timeout: float = Field(60.0, gt=0, le=_DAY, description="seconds until an unanswered request gets 504")
    drain_timeout: float = Field(
        20.0, ge=0, le=_DAY, description="seconds that a stopping server waits for work under way"
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=_DAY,
        description="seconds that a server goes on taking requests after SIGTERM, while it says that it is not ready: "
        "what a load balancer needs to notice",
    )

    max_faults: int = Field(
        5,
        ge=0,
        description="faults of one adapter within fault_window, after which it is quarantined; 0: it never is",
    )
    fault_window: float = Field(60.0, gt=0, le=_DAY, description="seconds within which an adapter's faults count")
    verify_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the answers that are computed once more, alone, and compared"
    )
    stall_timeout: float = Field(
        20.0, gt=0, le=_DAY, description="seconds after which a thread that is busy with one thing counts as hanging"
    )
    stall_limit: float = Field(
        300.0, ge=0, le=_DAY, description="seconds after which the process ends where a thread hangs; 0: it never does"
    )

    slots: int = Field(256, ge=1, description="maximum adapters that are ready on the device")
    slot_memory: ByteSize = Field(
        ByteSize(0),
        description="maximum bytes of adapters on the device; 0: on CUDA half of what is free beside backbone and "
        "cache, else 2 GiB",
    )
    host_memory: ByteSize = Field(ByteSize(4 << 30), description="maximum bytes of adapters in host memory")
    preload: int = Field(16, ge=0, description="maximum tasks loaded into slots before the server says it is ready")
    scan_interval: float = Field(
        1.0, gt=0, le=_DAY, description="seconds between scans for adapters copied into the store"
    )

    max_inputs: int = Field(2048, ge=1, description="maximum inputs of one call")
    max_characters: int = Field(1_000_000, ge=1, description="maximum characters of one input")
    max_body: ByteSize = Field(ByteSize(16 << 20), description="maximum bytes of a JSON request")
    max_values: int = Field(
        200_000, ge=1, description="maximum values of a JSON request; a text, a list or an object counts as four"
    )
    max_upload: ByteSize = Field(ByteSize(512 << 20), description="maximum bytes of an uploaded adapter")
    max_uploads: int = Field(32, ge=1, description="maximum uploads under way at once; a further one gets 429")
    upload_threads: int = Field(
        2, ge=1, description="maximum uploads that are unpacked and checked at once; others wait"
    )
    max_unpacked: ByteSize = Field(ByteSize(1 << 30), description="maximum bytes of an unpacked archive")
    max_files: int = Field(64, ge=1, description="maximum files of an adapter")
    max_rank: int = Field(1024, ge=1, description="maximum rank, width or prefix of an adapter")
    max_versions: int = Field(100, ge=1, description="maximum versions that one task keeps")
    max_tasks: int = Field(100_000, ge=1, description="maximum tasks of a store")
    adapter_folders: Folders = Field(
        (),
        description="folders that POST /v1/load_lora_adapter may read, with commas between; none: it reads nothing",
    )

    api_keys: Keys = Field((), description="keys that may ask, with commas between; none: everybody may")
    admin_keys: Keys = Field((), description="keys that may also change tasks; none: whoever may ask")
    keys_file: Path | None = Field(
        None,
        description="file of `manyhats keys`; none: .manyhats/keys.json in the store. Where it is, a key is needed",
    )
    jwt_issuer: str = Field("", description="issuer (`iss`) of the tokens of an identity provider; none: none is taken")
    jwt_audience: str = Field("", description="audience (`aud`) that such tokens must be for")
    jwt_jwks: str = Field("", description="address or file of the provider's public keys (JWKS)")
    jwt_scopes_claim: str = Field("scope", description="claim with the scopes: a list, or a text with spaces between")
    jwt_tenant_claim: str = Field("tenant", description="claim with the tenant's name")
    jwt_tasks_claim: str = Field(
        "tasks", description="claim with the patterns of tasks, without which a token may ask none; empty: all tasks"
    )
    audit_entries: int = Field(100_000, ge=1, description="maximum entries of the audit log; the oldest go")
    allow_unauthenticated: bool = Field(
        False, description="serve on another address than a loopback one without keys: whoever reaches it may do all"
    )
    allowed_hosts: Hosts = Field(
        (),
        description="names that requests may be sent to beside the loopback ones, with commas between; *.example.com "
        "is every name below, * any. None: any where api_keys are set, else the address that is listened on",
    )
    cors_origins: Origins = Field(
        (),
        description="origins (https://app.example.com) whose pages may ask from a browser, with commas between; * any",
    )

    max_connections: int = Field(
        0, ge=0, description="maximum connections at once, more get 503; 0: what the limit on open files allows"
    )
    max_client_connections: int = Field(
        1024, ge=0, description="maximum connections of one client's address at once, more get 429; 0: no such limit"
    )
    header_timeout: float = Field(10.0, gt=0, le=_DAY, description="seconds until a request's head must have come")
    body_timeout: float = Field(
        20.0, gt=0, le=_DAY, description="seconds that a body may take to come, beside those for its bytes"
    )
    body_rate: ByteSize = Field(
        ByteSize(4 << 10), gt=0, description="bytes a second below which a body that comes slowly is given up"
    )
    send_timeout: float = Field(
        60.0, gt=0, le=_DAY, description="seconds without a byte taken, until a client that does not read is cut off"
    )
    keep_alive: float = Field(
        30.0, gt=0, le=_DAY, description="seconds that a connection may stay open between requests"
    )

    metrics_tasks: int = Field(200, ge=0, description="maximum tasks with a label of their own in /metrics")
    metrics_names: Literal["readers", "everybody", "nobody"] = Field(
        "readers", description="who sees tasks' names in /metrics, the others get sums; readers: who may ask"
    )
    metrics_vllm_names: bool = Field(
        False, description="also give figures in /metrics under vLLM's names, for routers that read those"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="how the log is written: text, json")
    request_log: Literal["off", "stdout", "log"] = Field(
        "off", description="a line of JSON for each request: off, on stdout, or where the log goes (stderr)"
    )
    log_texts: bool = Field(
        False, description="let the log of requests have texts and answers, which may be nobody else's business"
    )
    otlp_endpoint: Annotated[str, BeforeValidator(_http_address)] = Field(
        "",
        description="where traces of requests are sent over OTLP (http://127.0.0.1:4318), with the extra otel; none: "
        "where OpenTelemetry's own variables say, or nowhere",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_deprecated(cls, given: Any) -> Any:
        """What is given by a setting's former name holds for the setting; both at once are an error."""
        given = dict(given)
        for name, former in _FORMER.items():
            names = [one for one in (name, *former) if given.get(one) is not None]
            if len(names) > 1:
                raise ValueError(f"{' and '.join(names)} are one setting now; give {name} alone")
            if names and names[0] != name:
                logger.warning("the setting %s is deprecated and will be removed; use %s", names[0], name)
                given[name] = given.pop(names[0])
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


# What a running server takes over when it reads its settings again.
RELOADED = frozenset(
    {
        *("request_timeout", "drain_timeout", "drain_delay", "queue_per_task", "queue_total", "scan_interval"),
        *("max_inputs", "max_characters", "max_body", "max_values", "max_upload", "max_uploads", "upload_threads"),
        *("max_unpacked", "max_files", "max_rank", "max_versions", "max_tasks", "adapter_folders"),
        *("api_keys", "admin_keys", "allowed_hosts", "metrics_names", "log_level"),
        *("max_connections", "max_client_connections"),
        *("header_timeout", "body_timeout", "body_rate", "send_timeout", "keep_alive"),
    }
)


def load_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings from the command line (`given`), the environment and the TOML file `config`, in this order.

    Raises WrongSetting in one line that names the setting.
    """
    if config is not None and not config.is_file():
        raise WrongSetting(f"the settings file '{config}' does not exist")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            ordered = Settings.settings_customise_sources(settings_cls, *sources, **named)
            return (*ordered, TomlConfigSettingsSource(settings_cls, config)) if config else ordered

    try:
        return FromFile(**given)
    except ValidationError as error:
        first = first_error(error, with_input=True)
        name = first.field
        if not name:  # of several settings together, whose values may be keys
            raise WrongSetting(first.reason) from None
        if first.type == "extra_forbidden":
            raise WrongSetting(f"there is no setting '{name}'") from None
        got = (
            "" if "key" in name or name == "database_url" else f" (got {first.input!r})"
        )  # a secret must not end up in a log
        raise WrongSetting(f"setting '{name}': {first.reason}{got}") from None
    except ValueError as error:
        raise WrongSetting(f"settings file '{config}': {error}") from None
