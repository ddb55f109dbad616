"""sshd: a drop-in of ours with keys only and modern algorithms, and the operators' keys."""

from __future__ import annotations

from pathlib import PurePath

from fiefdom.desired.context import Context
from fiefdom.desired.cutting import Cutting
from fiefdom.desired.render import render
from fiefdom.desired.state import Codename, Directory, File, HostState, Package, Unit
from fiefdom.errors import FiefdomError
from fiefdom.model.jumps import forwards

# Debian's sshd_config includes the folder first and the first value wins: ahead of cloud-init's 50-.
CONFIG = "/etc/ssh/sshd_config.d/10-fiefdom.conf"
UNIT = "ssh.service"
UNIT_DROP_IN = f"/etc/systemd/system/{UNIT}.d/10-fiefdom.conf"
KEYS_DIR = "/etc/ssh/fiefdom_authorized_keys"

# What only the mode "pq" has. A new RSA key changes nothing for who knows the host by its Ed25519 key.
RSA_KEY = "/etc/ssh/fiefdom_host_rsa_key"
MODULI = "/etc/ssh/fiefdom_moduli"
KEYS_UNIT = "fiefdom-sshd-keys.service"
KEYS_SERVICE = f"/etc/systemd/system/{KEYS_UNIT}"

CUTTING = Cutting(
    paths=("/etc/ssh/", f"{PurePath(UNIT_DROP_IN).parent}/", KEYS_SERVICE),
    units=(KEYS_UNIT, UNIT),
)

# ssh-audit 3.9.0, `--get-hardening-guide "Debian 12 Server"` (version 3) and "Debian 13 Server" (version 1), in its
# order: this is "pq". Its policies of the same names compare lists exactly.
_PQ_HYBRID = ("sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com")
_CURVE25519 = ("curve25519-sha256", "curve25519-sha256@libssh.org")
_DIFFIE_HELLMAN = (
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
)
_CIPHERS = (
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-gcm@openssh.com",
    "aes128-ctr",
)
_HOST_KEYS = (
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
    "sk-ssh-ed25519@openssh.com",
    "ssh-ed25519",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_CA_SIGNATURES = ("sk-ssh-ed25519@openssh.com", "ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256")

PQ: dict[Codename, dict[str, tuple[str, ...]]] = {
    "bookworm": {
        "KexAlgorithms": _PQ_HYBRID + _CURVE25519 + _DIFFIE_HELLMAN,
        "Ciphers": _CIPHERS,
        "MACs": (
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "umac-128-etm@openssh.com",
        ),
        "HostKeyAlgorithms": _HOST_KEYS,
        "CASignatureAlgorithms": _CA_SIGNATURES,
    },
    "trixie": {
        "KexAlgorithms": ("mlkem768x25519-sha256", *_PQ_HYBRID),
        "Ciphers": _CIPHERS,
        "MACs": (
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "umac-128-etm@openssh.com",
        ),
        "HostKeyAlgorithms": _HOST_KEYS,
        "CASignatureAlgorithms": _CA_SIGNATURES,
    },
}

# curve25519 stays in under both Debians, because paramiko 4, which pyinfra pins, knows no post-quantum key exchange and
# would be locked out; finite-field Diffie-Hellman goes.
COMPAT: dict[Codename, dict[str, tuple[str, ...]]] = {
    "bookworm": {**PQ["bookworm"], "KexAlgorithms": _PQ_HYBRID + _CURVE25519},
    "trixie": {**PQ["trixie"], "KexAlgorithms": PQ["trixie"]["KexAlgorithms"] + _CURVE25519},
}


_FORWARDING = {"none": "no", "local": "local", "all": "yes"}


def desired(context: Context) -> HostState:
    """The host's sshd. Raises FiefdomError where the settings would shut Fiefdom's own login user out."""
    ssh = context.cluster.ssh
    user, port, _ = context.cluster.ssh_of(context.name)
    if user == "root" and not ssh.permit_root:
        raise FiefdomError(
            f"ssh.permit_root: false would lock root out, as whom Fiefdom logs in to {context.name}; "
            "set ssh.user to a user with passwordless sudo"
        )
    pq = ssh.crypto == "pq"
    text = render(
        "sshd.conf.j2",
        ssh=ssh,
        port=port,
        forwarding=_FORWARDING[forwards(context.cluster, context.name)],
        listen=context.host.ssh.listen,
        crypto=(PQ if pq else COMPAT)[context.codename],
        rsa_key=RSA_KEY if pq else "/etc/ssh/ssh_host_rsa_key",
        # Of the two guides' lists only that of Debian 12 has a group exchange to choose groups for.
        moduli=MODULI if pq and context.codename == "bookworm" else None,
        keys_dir=KEYS_DIR if ssh.authorized_keys else None,
        # OpenSSH 9.8 and later shut an address out for a while after a few failed logins; an operator's typing
        # error must not shut the operator out.
        exempt=context.cluster.network.admin_cidrs if context.codename == "trixie" else (),
    )
    made_first = _keys(context.codename) if pq else HostState()
    return (
        made_first
        + HostState(
            packages=(Package("openssh-server"),),
            directories=(Directory(KEYS_DIR),) if ssh.authorized_keys else (),
            files=(
                # steps.sh's own: `sshd -t` of it alone, and of all that sshd reads with it.
                File(CONFIG, text.encode(), mode=0o600, check=("sshd", CONFIG, "{}")),
                *_authorized_keys(context, user),
            ),
            units=(Unit(UNIT, config=(CONFIG,), on_change=("reload",)),),
        )
        + (_patience() if context.host.ssh.listen else HostState())
    )


def _patience() -> HostState:
    """At boot, an address to listen at may come later than sshd, which Debian's unit takes for a final failure."""
    return HostState(
        directories=(Directory(str(PurePath(UNIT_DROP_IN).parent)),),
        files=(File(UNIT_DROP_IN, render("ssh.service.conf.j2").encode()),),
    )


def _keys(codename: Codename) -> HostState:
    """What a host makes for itself, once and before sshd reads it: its private key never travels."""
    moduli = MODULI if codename == "bookworm" else None
    text = render("fiefdom-sshd-keys.service.j2", rsa_key=RSA_KEY, moduli=moduli)
    return HostState(files=(File(KEYS_SERVICE, text.encode()),), units=(Unit(KEYS_UNIT, config=(KEYS_SERVICE,)),))


def _authorized_keys(context: Context, user: str) -> tuple[File, ...]:
    ssh = context.cluster.ssh
    if not ssh.authorized_keys:
        return ()
    users = {user, "root"} if ssh.permit_root else {user}
    text = render("authorized_keys.j2", keys=ssh.authorized_keys)
    # World-readable: sshd reads it as the user who logs in.
    return tuple(File(f"{KEYS_DIR}/{name}", text.encode()) for name in sorted(users))
