"""How many replicas there are, and what each takes: the options of `manyhats scale` beside the server's settings."""

from __future__ import annotations

from dataclasses import dataclass

from manyhats.errors import WrongSetting

APP, REPLICA, FRONT = "manyhats", "replica", "front"  # what Ray Serve calls them


@dataclass(frozen=True, slots=True)
class Scaling:
    """`replicas` where they do not change; else from `min_replicas` to `max_replicas`, as many as keep `target_depth`
    inputs a replica. `spread` and `slack`: see `Affinity`. `cpus`, `gpus`: what Ray counts for a replica."""

    replicas: int = 2
    min_replicas: int | None = None
    max_replicas: int | None = None
    target_depth: float = 32.0
    upscale_delay: float = 10.0  # seconds
    downscale_delay: float = 300.0
    fronts: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    max_ongoing: int = 256  # requests of one replica
    max_queued: int = 2048  # requests of one front that wait for a replica
    affinity: bool = True  # else Ray's own router, which knows nothing of tasks: for comparison
    spread: float = 1.25
    slack: int = 8
    holdings_period: float = 1.0  # seconds between a replica's reports of what it holds

    def __post_init__(self) -> None:
        """Raises WrongSetting for what cannot be."""
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise WrongSetting("give --min-replicas and --max-replicas together, or --replicas alone")
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise WrongSetting(f"--min-replicas {self.min_replicas} is more than --max-replicas {self.max_replicas}")

    @property
    def most(self) -> int:
        """Replicas at most, but for the one that is there before another goes."""
        return self.max_replicas or self.replicas

    @property
    def scales(self) -> bool:
        """Whether the number changes with the load."""
        return self.max_replicas is not None
