"""Finds the site with a module's name."""

from __future__ import annotations

from collections.abc import Collection

from manyhats.backbone.sites import LinearSite, ModuleSite, ModuleSites


class UnknownSite(LookupError):
    """A name that no site of the backbone has.

    `module`: the given name. `wanted`: the type of module. `shared_table`: whether the module exists, but is an
    embedding that is read once for all sequences of a batch.
    """

    def __init__(self, module: str, wanted: str, *, shared_table: bool) -> None:
        super().__init__(f"no {wanted} is called '{module}'")
        self.module = module
        self.wanted = wanted
        self.shared_table = shared_table


class SiteNames:
    """The sites of one backbone by the names of their modules, with or without the task model's prefix."""

    def __init__(self, sites: ModuleSites, prefix: str, shared_tables: Collection[str]) -> None:
        self._sites = sites
        self._prefix = f"{prefix}."
        self._shared_tables = shared_tables

    def bare_name(self, module: str) -> str:
        """A module's name in the bare model.

        Some task models have another name for the bare one (`transformer` for question answering).
        """
        bare = module.removeprefix(self._prefix)
        inner = bare.partition(".")[2]
        return inner if self.find(bare) is None and self.find(inner) is not None else bare

    def find(self, name: str) -> ModuleSite | None:
        """The site of a module of the bare model that holds parameters; None where there is none."""
        sites = self._sites
        return sites.linear.get(name) or sites.embedding.get(name) or sites.norm.get(name)

    def linear(self, module: str) -> LinearSite:
        """The site of a linear layer. Raises UnknownSite where there is none."""
        site = self._sites.linear.get(self.bare_name(module))
        if site is None:
            raise self._unknown(module, "linear layer")
        return site

    def parameters(self, module: str) -> ModuleSite:
        """The site of a module that holds parameters. Raises UnknownSite where there is none."""
        site = self.find(self.bare_name(module))
        if site is None:
            raise self._unknown(module, "linear layer, embedding or norm")
        return site

    def _unknown(self, module: str, wanted: str) -> UnknownSite:
        return UnknownSite(module, wanted, shared_table=module.removeprefix(self._prefix) in self._shared_tables)
