"""The ways to services at a gateway, as haproxy.cfg has them: listeners, and a backend for each service."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fiefdom.desired.context import Context
from fiefdom.desired.state import Directory, File, HostState, digest
from fiefdom.model import Cluster, Route, Secrets
from fiefdom.model.answers import Maintenance

PAGES_DIR = "/etc/fiefdom/gateway/answers"


def of_kind(cluster: Cluster, kind: str) -> list[str]:
    """Names of the services of a kind that gateways have, in order."""
    return sorted(name for name, s in cluster.services.items() if s.kind == kind and s.gateway_port is not None)


def backend(cluster: Cluster, name: str, secrets: Secrets) -> dict[str, object]:
    """What the template says of a service of kind http."""
    health, route = cluster.services[name].health, cluster.services[name].route
    return {
        "name": name,
        # A path may hold this one character that is not text to HAProxy.
        "health_path": health.path.replace("'", r"\'"),
        "health_timeout_s": health.timeout_s,
        "health_host": health.host or name,
        "health_status": health.own_status,
        "server_timeout_s": route.server_timeout_s,
        "tunnel_timeout_s": route.tunnel_timeout_s,
        "allow_from": route.allow_from,
        "max_body_kib": route.max_body_kib,
        "redirect_from": [(_as_acl(host), _served_below(route, host)) for host in route.redirect_from],
        "host": route.host[0] if route.host else None,
        "request_headers": _quoted(route.headers.request),
        "response_headers": _quoted(route.headers.response),
        "maintenance": _maintenance(name, route.maintenance, secrets),
        **({"sticky": _sticky(cluster, name)} if route.sticky_cookie else {}),
        **_spoken(cluster, name),
        "stripped": (route.path_prefix or "").rstrip("/") if route.strip_prefix else "",
    }


def _sticky(cluster: Cluster, name: str) -> dict[str, object]:
    """The cookie of a service, whose values are hashes of addresses: the same at all gateways, and after a restart."""
    return {
        "cookie": cluster.services[name].route.sticky_cookie,
        "secure": cluster.is_over_tls_alone(name),
        "key": digest(f"{cluster.cluster}/{name}")[:16],
    }


def _spoken(cluster: Cluster, name: str) -> dict[str, object]:
    """Whether instances speak HTTP/2 in clear text; of those that do not, whether a neighbour at their port does."""
    if cluster.services[name].h2c:
        return {"h2c": True}
    mixed = any(_is_for_h2c(cluster, port) for port in cluster.front_ports(name))
    return {"awaits_bodies": True} if mixed else {}


def _is_for_h2c(cluster: Cluster, port: int) -> bool:
    return any(cluster.services[n].h2c and port in cluster.front_ports(n) for n in of_kind(cluster, "http"))


def _as_acl(host: str) -> str:
    """How a host name, or all below one, is compared with what a client says."""
    return f"-m end -i {host[1:]}" if host.startswith("*.") else f"-m str -i {host}"


def _served_below(route: Route, wildcard: str) -> list[str]:
    """Comparisons with the hosts of a route that a wildcard is for as well: led away, they would come again."""
    if not wildcard.startswith("*."):
        return []
    return [_as_acl(host) for host in route.host if host.lower().endswith(wildcard[1:].lower())]


def _quoted(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    """Texts as they stand in quotes, where HAProxy fills nothing in."""
    return {name: text if text is None else _in_quotes(text) for name, text in headers.items()}


def _in_quotes(text: str) -> str:
    plain = re.sub(r'(["\\$])', r"\\\1", text).replace("%", "%%")
    return f'"{plain}"'


def _maintenance(name: str, maintenance: Maintenance, secrets: Secrets) -> dict[str, object]:
    page = maintenance.page
    return {
        "active": maintenance.active,
        "page": None if page is None else page_path(name),
        "digest": None if page is None else digest(secrets.contents[page])[:12],
        "retry_after_s": maintenance.retry_after_s,
    }


def page_path(service: str) -> str:
    """Where a gateway has the page of a service that is looked after; placed before the configuration that names it."""
    return f"{PAGES_DIR}/{service}.html"


def pages(context: Context) -> HostState:
    """The pages that stand in services' places."""
    pages = {name: s.route.maintenance.page for name, s in context.cluster.services.items()}
    files = [File(page_path(name), context.secrets.contents[page]) for name, page in pages.items() if page is not None]
    return HostState(directories=(Directory(PAGES_DIR),) if files else (), files=tuple(files))


def listeners(cluster: Cluster) -> list[dict[str, object]]:
    """For each gateway port the routes to services, and the one that takes what no route asks for."""
    ports = sorted(cluster.fronts.keys() - {cluster.services[name].gateway_port for name in of_kind(cluster, "tcp")})
    return [_listener(cluster, port) for port in ports]


def _listener(cluster: Cluster, port: int) -> dict[str, object]:
    here = {n: cluster.services[n].route for n in of_kind(cluster, "http") if port in cluster.front_ports(n)}
    default = [name for name, route in here.items() if _hosts(route) == (None,) and route.path_prefix is None]
    ways = [(name, host) for name, route in here.items() if name not in default for host in _hosts(route)]
    return {
        "port": port,
        "h2c": _is_for_h2c(cluster, port),
        "balancer_paths": [(route.balancer_path, name) for name, route in here.items() if route.balancer_path],
        "routes": [
            {"backend": name, "host": host, "path_prefix": here[name].path_prefix}
            for name, host in sorted(ways, key=lambda way: _breadth(way[1], here[way[0]].path_prefix))
        ],
        "default_backend": default[0] if default else None,
    }


def _hosts(route: Route) -> tuple[str | None, ...]:
    return (*route.host, *route.redirect_from) or (None,)


def _breadth(host: str | None, path_prefix: str | None) -> tuple[bool, int, int]:
    """Orders wildcards behind all others, the longer before the shorter, and of one the longer prefix first."""
    is_wild = host is not None and host.startswith("*.")
    return is_wild, -len(host or "") * is_wild, -len(path_prefix or "") * is_wild
