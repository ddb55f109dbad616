"""dev-sec ssh-baseline's controls of sshd, on the settings that sshd goes by: InSpec is in no registry here.

Numbers are the profile's own (47 controls; there is no 26). It reads one file, where the first of several counts; this
asks `sshd -T`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from helpers.audited import Control, Target, each

SSH_AUDITS_LISTS = "its lists are of 2018 and contradict ssh-audit, whose guides' lists these are"


def says(keyword: str, *values: str) -> Callable[[Target], bool]:
    return lambda target: target.sshd[keyword] in values


def banner(target: Target) -> str:
    with socket.create_connection((target.address, 22), timeout=10) as connection:
        return connection.recv(255).decode().strip()


def at_most_startups(target: Target) -> bool:
    start, rate, full = (int(number) for number in target.sshd["maxstartups"].split(":"))
    return start <= 10 and rate >= 30 and full <= 100


CONTROLS = (
    Control(
        "sshd-01",
        "ciphers",
        lambda t: set(t.sshd["ciphers"].split(",")) <= {"aes256-ctr", "aes192-ctr", "aes128-ctr"},
        SSH_AUDITS_LISTS,
    ),
    Control(
        "sshd-02",
        "key exchanges",
        says("kexalgorithms", "diffie-hellman-group-exchange-sha256"),
        SSH_AUDITS_LISTS,
    ),
    Control(
        "sshd-03",
        "message authentication",
        says("macs", "hmac-sha2-512,hmac-sha2-256,hmac-ripemd160"),
        SSH_AUDITS_LISTS,
    ),
    Control("sshd-04", "/etc/ssh: owner and mode", lambda t: owned(t, "/etc/ssh", 0o755)),
    Control(
        "sshd-05",
        "sshd_config: root's eyes only",
        lambda t: owned(t, "/etc/ssh/sshd_config", 0o600),
        "the package's own file, which holds nothing to hide; Fiefdom's beside it is closed",
    ),
    Control("sshd-06", "root by key at most", says("permitrootlogin", "no", "without-password", "prohibit-password")),
    Control("sshd-07", "a port is named", lambda t: t.sshd["port"].isdigit()),
    Control("sshd-08", "address family", says("addressfamily", "inet", "inet6", "any")),
    Control("sshd-09", "listen address", lambda t: bool(t.sshd["listenaddress"])),
    Control("sshd-10", "protocol 2 alone", lambda t: banner(t).startswith("SSH-2.0-")),
    Control("sshd-11", "strict modes", says("strictmodes", "yes")),
    Control("sshd-12", "log facility", says("syslogfacility", "AUTH")),
    Control("sshd-13", "log level", says("loglevel", "VERBOSE")),
    Control(
        "sshd-14",
        "host keys",
        lambda t: "ssh_host_ecdsa_key" in t.run("sshd -T | grep ^hostkey"),
        "it wants an ECDSA key on a NIST curve, which ssh-audit fails",
    ),
    Control("sshd-15", "no login(1)", lambda t: "uselogin" not in t.sshd),
    Control(
        "sshd-16",
        "privilege separation",
        lambda t: "useprivilegeseparation" in t.sshd,
        "OpenSSH has had no such keyword since 7.5, and separates always",
    ),
    Control("sshd-17", "no user environment", says("permituserenvironment", "no")),
    Control("sshd-18", "login grace time", says("logingracetime", "30")),
    Control(
        "sshd-19",
        "login tries",
        says("maxauthtries", "2"),
        "an agent with three keys would be shut out; ssh.max_auth_tries: 2 passes",
    ),
    Control("sshd-20", "sessions", says("maxsessions", "10")),
    Control("sshd-21", "unauthenticated connections", at_most_startups),
    Control("sshd-22", "public keys", says("pubkeyauthentication", "yes")),
    Control("sshd-23", "no rhosts", says("ignorerhosts", "yes")),
    Control("sshd-24", "no known_hosts of users", says("ignoreuserknownhosts", "yes")),
    Control("sshd-25", "no host-based login", says("hostbasedauthentication", "no")),
    Control("sshd-27", "no passwords", says("passwordauthentication", "no")),
    Control("sshd-28", "no empty passwords", says("permitemptypasswords", "no")),
    Control("sshd-29", "no challenge and response", says("kbdinteractiveauthentication", "no")),
    Control("sshd-30", "no Kerberos", says("kerberosauthentication", "no")),
    Control("sshd-31", "no password in Kerberos' place", says("kerberosorlocalpasswd", "no")),
    Control("sshd-32", "Kerberos tickets are cleaned up", says("kerberosticketcleanup", "yes")),
    Control("sshd-33", "no GSSAPI", says("gssapiauthentication", "no")),
    Control("sshd-34", "GSSAPI credentials are cleaned up", says("gssapicleanupcredentials", "yes")),
    Control("sshd-35", "no TCP keep-alive", says("tcpkeepalive", "no")),
    Control("sshd-36", "client alive interval", says("clientaliveinterval", "300")),
    Control("sshd-37", "client alive count", says("clientalivecountmax", "3")),
    Control("sshd-38", "no tunnels", says("permittunnel", "no")),
    Control("sshd-39", "no TCP forwarding", says("allowtcpforwarding", "no")),
    Control("sshd-40", "no agent forwarding", says("allowagentforwarding", "no")),
    Control("sshd-41", "no gateway ports", says("gatewayports", "no")),
    Control("sshd-42", "no X11", says("x11forwarding", "no")),
    Control("sshd-43", "X11 on loopback", says("x11uselocalhost", "yes")),
    Control("sshd-44", "no message of the day", says("printmotd", "no")),
    Control(
        "sshd-45",
        "no last login",
        says("printlastlog", "no"),
        "lynis wants it shown: who logs in sees a login that was not theirs",
    ),
    Control("sshd-46", "banner file", says("banner", "none")),
    Control("sshd-47", "no Debian in the banner", lambda t: "Debian" not in banner(t)),
    Control(
        "sshd-48",
        "no weak groups",
        lambda t: t.run("awk '$5 ~ /^[0-9]+$/ && $5 < 2047' /etc/ssh/moduli | wc -l").strip() == "0",
    ),
)


def owned(target: Target, path: str, mode: int) -> bool:
    file = target.host.file(path)
    return (file.user, file.group, file.mode) == ("root", "root", mode)


@each(CONTROLS)
def test_control(control: Control, target: Target) -> None:
    assert control.wanted(target), control.about
