"""What makes a function of `fiefdom.deploys` a @deploy of pyinfra's, with one sentence for whoever calls it wrongly."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from pyinfra import context
from pyinfra.api import deploy
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.exceptions import DeployError
from pyinfra.api.host import Host

from fiefdom.desired.concerns import ALL
from fiefdom.engine import whose
from fiefdom.engine.deploys import Changes, converge
from fiefdom.errors import FiefdomError
from fiefdom.inventory.read import DATA_KEY
from fiefdom.wording import printable, shown


def concern(*concerns: str) -> Callable[[Callable[..., Changes]], Callable[..., Changes]]:
    """Make a function, which is a name and a docstring, the deploy of some concerns; of all where none is named."""

    def decorate(function: Callable[..., Changes]) -> Callable[..., Changes]:
        name = function.__name__

        @deploy(f"Fiefdom {name}")
        def inner(defaults: Any) -> Changes:
            return converge(concerns or ALL, defaults)

        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Changes:
            _require_host(name)
            known = {key for key, _ in all_global_arguments()}
            wrong = [*map(shown, args), *(key for key in kwargs if key not in known)]
            if wrong:
                raise DeployError(
                    printable(
                        f"fiefdom.{name}({wrong[0]}): takes pyinfra's global arguments alone, such as _if; what it is "
                        f"to do stands in the data `{DATA_KEY}`"
                    )
                )
            # Asked here, for a deploy within a deploy hides the outer one's.
            result: Any = inner(defaults=context.host.get_deploy_data().get(DATA_KEY), **kwargs)
            return cast(Changes, result)

        return called

    return decorate


def is_member(host: Host) -> bool:
    """As `fiefdom.deploys.is_member`."""
    if not hasattr(host, "inventory"):
        raise DeployError(printable(f"fiefdom.is_member({shown(host)}): takes pyinfra's `host`"))
    try:
        return whose.is_member(host.inventory, host, host.get_deploy_data().get(DATA_KEY))
    except FiefdomError as error:
        raise DeployError(str(error)) from error


def unknown(name: str, known: tuple[str, ...]) -> Exception:
    """What to raise for a name that `fiefdom.deploys` does not have."""
    if name.startswith("_"):  # Python and its tools ask for many
        return AttributeError(name)
    # No AttributeError, which `from fiefdom.deploys import NAME` would turn into a traceback.
    return DeployError(printable(f"fiefdom.deploys has no {name}; it has {', '.join(known)}"))


def _require_host(name: str) -> None:
    if not context.ctx_host.isset():
        raise DeployError(f"fiefdom.{name}(): pyinfra is at no host; call it in what the `pyinfra` command runs")
