"""Registries: which kinds a section may have, and how others add theirs.

A registry lists the sections of this package. Installed packages add more through entry points, and the user by naming
a class of his own, `prompt=my_module:MyPrompt`. Each section says what builds the module that it describes.
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
    "it is a plug-in, and no code is loaded because a file names it; if you trust it, name it yourself: --plugin "
    "MODULE:CLASS"
)


class KindSection(Section):
    """A section of which a run chooses one by its `kind`.

    A section of this package names what builds its module in `make`, "package.module:function", which is imported when
    it is called; one of yours may override `build` instead.
    """

    kind: Word = ""
    make: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, value: Any) -> Any:
        """A class without a kind of its own is called by its place, as on the command line."""
        if isinstance(value, Mapping) and not cls.model_fields["kind"].default and not value.get("kind"):
            return {**value, "kind": f"{cls.__module__}:{cls.__qualname__}"}
        return value

    def build(self, *args: Any) -> Any:
        """The module that the section describes; the base class of its registry says for which arguments."""
        if not self.make:
            raise NotImplementedError(f"{type(self).__qualname__} needs a method build")
        return imported(self.make)(self, *args)


S = TypeVar("S", bound=KindSection)


class Registry(Generic[S]):
    """The kinds that a section of the configuration may have.

    Args:
        key: of the section, as in `prompt`.
        group: of the entry points by which installed packages add kinds.
        base: of every section, of others too.
        sections: of this package.

    >>> from vpt.config.prompts import PROMPTS
    >>> PROMPTS.find("deep").__name__
    'DeepPrompt'
    """

    def __init__(self, key: str, group: str, base: type[S], sections: Sequence[type[S]]) -> None:
        self.key, self.group, self.base = key, group, base
        self.own: dict[str, type[S]] = {section.model_fields["kind"].default: section for section in sections}
        self._named: dict[str, type[S]] = {}

    def kinds(self) -> list[str]:
        """Every kind that there is: of this package, of installed ones, and those that the user has named."""
        return list(dict.fromkeys([*self.own, *installed(self.group), *self._named]))

    def sections(self) -> dict[str, type[S]]:
        """Every kind and its section. Packages that add some are imported."""
        return {kind: section for kind in self.kinds() if (section := self.find(kind)) is not None}

    def find(self, kind: str) -> type[S] | None:
        """The section of a kind; None where there is none. No module is imported because of `kind` but those that an
        installed package offers under this name.

        Raises:
            UserError: a package whose section cannot be loaded.
        """
        known = self.own.get(kind) or self._named.get(kind)
        if known is not None:
            return known
        point = installed(self.group).get(kind)
        return None if point is None else self._checked(load_installed(point), kind, f"'{kind}' ({point.value})")

    def use(self, kind: str) -> type[S]:
        """Import a class that the user names, `module:Class`, and know it from now on.

        Raises:
            UserError: there is none, or it is no section of this registry.
        """
        if kind not in self._named:
            self._named[kind] = self._checked(named(kind, self.key), kind, f"{self.key}={kind}")
        return self._named[kind]

    def _checked(self, found: Any, kind: str, what: str) -> type[S]:
        if not isinstance(found, type) or not issubclass(found, self.base):
            raise UserError(f"{what} is no section of settings; derive it from vpt.config.{self.base.__name__}")
        own = found.model_fields["kind"].default
        if own not in ("", kind):  # an artifact would name another class
            raise UserError(f"{what} calls itself kind='{own}'; give it the field kind: str = ''")
        return found

    def built(self, section: S, *args: Any) -> Any:
        """What `section.build(*args)` makes.

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
        """The type of a field that holds one of the sections; a bare word stands for its kind."""
        own: Any = Annotated[Union[tuple(self.own.values())], Field(discriminator="kind")]  # noqa: UP007
        if len(self.own) == 1:  # a union of one has no discriminator
            own = next(iter(self.own.values()))
        return Annotated[own, WrapValidator(self._validate), SerializeAsAny(), short("kind", default)]

    def _validate(self, value: Any, of_own: Callable[[Any], S]) -> S:
        if isinstance(value, self.base):
            if value.kind in self.own and type(value) is not self.own[value.kind]:
                raise PydanticCustomError("taken_kind", "a class of your own needs the field kind: str = ''")
            if value.kind not in self.own:
                self._named.setdefault(value.kind, type(value))  # made by the user's own code
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
        raise PydanticCustomError("unknown_kind", "its kind is none that this vpt knows", {"kind": kind})
