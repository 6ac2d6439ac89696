"""Registries of the kinds that a section may have, including plug-ins.

A registry lists the sections of this package. Installed packages add more through entry points, users by naming their
own class, `prompt=my_module:MyPrompt`. Each section names the builder of its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from vpt.config.base import Section, Word, short
from vpt.utils.errors import UserError
from vpt.utils.plugins import imported, installed, load_installed, named, said

NOT_NAMED = (
    "it is a plug-in, and code is never loaded because a file names it; if you trust it, name it yourself: --plugin "
    "MODULE:CLASS"
)


class KindSection(Section):
    """A section chosen in a run by its `kind`.

    A section of this package names the builder of its module in `make`, "package.module:function", which is imported on
    the first call; your own section may override `build` instead.
    """

    kind: Word = ""
    make: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, value: Any) -> Any:
        """A class without its own kind is named by its `module:Class`, as on the command line."""
        if isinstance(value, Mapping) and not cls.model_fields["kind"].default and not value.get("kind"):
            return {**value, "kind": f"{cls.__module__}:{cls.__qualname__}"}
        return value

    def build(self, *args: Any) -> Any:
        """Create the module that the section describes; the base class of its registry documents the arguments."""
        if not self.make:
            raise NotImplementedError(f"{type(self).__qualname__} needs a method build")
        return imported(self.make)(self, *args)


S = TypeVar("S", bound=KindSection)


class Registry(Generic[S]):
    """The kinds that a section of the configuration may have.

    Args:
        key: key of the section, as in `prompt`.
        group: entry points through which installed packages add kinds.
        base: base class of every section, including those of plug-ins.
        sections: sections of this package.

    >>> from vpt.config.prompts import PROMPTS
    >>> PROMPTS.find("deep").__name__
    'DeepPrompt'
    """

    def __init__(self, key: str, group: str, base: type[S], sections: Sequence[type[S]]) -> None:
        self.key, self.group, self.base = key, group, base
        self.own: dict[str, type[S]] = {section.model_fields["kind"].default: section for section in sections}
        self._named: dict[str, type[S]] = {}

    def kinds(self) -> list[str]:
        """All kinds: those of this package, of installed packages, and those named by the user."""
        return list(dict.fromkeys([*self.own, *installed(self.group), *self._named]))

    def sections(self) -> dict[str, type[S]]:
        """All kinds and their sections. Packages that add kinds are imported."""
        return {kind: section for kind in self.kinds() if (section := self.find(kind)) is not None}

    def find(self, kind: str) -> type[S] | None:
        """The section of a kind, or None. The only module that may be imported is that of an installed package which
        offers this kind.

        Raises:
            UserError: a package whose section cannot be loaded.
        """
        known = self.own.get(kind) or self._named.get(kind)
        if known is not None:
            return known
        point = installed(self.group).get(kind)
        return None if point is None else self._checked(load_installed(point), kind, f"'{kind}' ({point.value})")

    def use(self, kind: str) -> type[S]:
        """Import a class named by the user, `module:Class`, and register it.

        Raises:
            UserError: there is no such class, or it is not a section of this registry.
        """
        if kind not in self._named:
            self._named[kind] = self._checked(named(kind, self.key), kind, f"{self.key}={kind}")
        return self._named[kind]

    def _checked(self, found: Any, kind: str, what: str) -> type[S]:
        if not isinstance(found, type) or not issubclass(found, self.base):
            raise UserError(f"{what} is not a settings section; derive it from vpt.config.{self.base.__name__}")
        own = found.model_fields["kind"].default
        if own not in ("", kind):  # an artifact would refer to another class
            raise UserError(f"{what} calls itself kind='{own}'; give it the field kind: str = ''")
        return found

    def built(self, section: S, *args: Any) -> Any:
        """The result of `section.build(*args)`.

        Raises:
            UserError: settings that do not fit, or a plug-in that fails.
        """
        try:
            return section.build(*args)
        except UserError:
            raise
        except Exception as error:
            if section.kind in self.own:
                raise
            raise UserError(f"{self.key}={section.kind} cannot be built: {said(error)}") from error

    def annotation(self, default: str) -> Any:
        """Type of a field that contains one of the sections; a bare word is taken as its kind."""
        own: Any = Annotated[Union[tuple(self.own.values())], Field(discriminator="kind")]  # noqa: UP007
        if len(self.own) == 1:  # a union of one has no discriminator
            own = next(iter(self.own.values()))
        return Annotated[own, WrapValidator(self._validate), SerializeAsAny(), short("kind", default)]

    def _validate(self, value: Any, of_own: Callable[[Any], S]) -> S:
        if isinstance(value, self.base):
            if value.kind in self.own and type(value) is not self.own[value.kind]:
                raise PydanticCustomError("taken_kind", "a class of your own needs the field kind: str = ''")
            if value.kind not in self.own:
                self._named.setdefault(value.kind, type(value))  # created by the user's own code
                return value
            return of_own(value)
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind in self.own:
            return of_own(value)
        section = self.find(kind)
        if section is not None:
            return section.model_validate({**value, "kind": kind})
        if ":" in kind:
            raise PydanticCustomError("plugin_not_named", NOT_NAMED, {"kind": kind})
        raise PydanticCustomError("unknown_kind", "this version of vpt has no such kind", {"kind": kind})
