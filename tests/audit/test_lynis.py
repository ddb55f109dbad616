"""lynis, each Debian's own, unpacked beside the host it looks at: nothing is installed there."""

from __future__ import annotations

from helpers.audited import Target

# Its hardening index of a bare host, which this is measured against: 60 on Debian 12, 62 on Debian 13.
LEAST_INDEX = {"bookworm": 69, "trixie": 70}

RUN = """
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 0755 "$folder"
cd "$folder"
ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get -qq update
apt-get -qq download lynis 2>/dev/null
dpkg -x lynis_*.deb .
cd usr/share/lynis
# It ends with a code of its own where it has anything to say.
../../sbin/lynis audit system --quiet --quick --no-colors --plugindir "$folder/etc/lynis/plugins" \
  --profile "$folder/etc/lynis/default.prf" --logfile "$folder/log" --report-file "$folder/report" >/dev/null 2>&1 || :
grep -E '^(hardening_index|suggestion|warning)' "$folder/report"
"""

THE_SYSTEM = "the operator's own choice of packages, accounts and partitions, which Fiefdom leaves alone"
HARDWARE = "a host may have disks there; Fiefdom does not know"
UPGRADES = "`fiefdom reboot --upgrade` installs them, with the host out of rotation"
# Warnings that begin when Debian publishes a fix, be it an hour after a host was made.
DEBIANS_OWN = {"PKGS-7392": UPGRADES}
A_CONTAINER = "the lab's hosts have no kernel and no boot loader of their own, and no security module"
NO_PASSWORDS = "it would ban nobody that the firewall lets in, and nobody has a password to guess"

# Suggestions that stay, by lynis' test; those about sshd with its keyword.
ACCEPTED = {
    "ACCT-9622": THE_SYSTEM,
    "ACCT-9626": THE_SYSTEM,
    "ACCT-9628": THE_SYSTEM,
    "AUTH-9230": THE_SYSTEM,
    "AUTH-9262": "nobody logs in with a password",
    "AUTH-9284": THE_SYSTEM,
    "AUTH-9286": "nobody logs in with a password",
    "AUTH-9328": THE_SYSTEM,
    "BANN-7126": "a legal text is the operator's to write",
    "BANN-7130": "a legal text is the operator's to write",
    "BOOT-5180": A_CONTAINER,
    "BOOT-5264": "Debian's own units; Fiefdom's are in test_exposure.py",
    "DEB-0280": THE_SYSTEM,
    "DEB-0810": THE_SYSTEM,
    "DEB-0811": THE_SYSTEM,
    "DEB-0831": THE_SYSTEM,
    "DEB-0880": NO_PASSWORDS,
    "FILE-6310": THE_SYSTEM,
    "FILE-7524": "modes of Debian's own files, such as sshd_config 0644",
    "FINT-4350": THE_SYSTEM,
    "FIRE-4513": "Docker's rules, before the first packet came",
    "HOME-9304": THE_SYSTEM,
    "HRDN-7230": THE_SYSTEM,
    "HRDN-7222": THE_SYSTEM,
    "KRNL-5788": A_CONTAINER,
    "KRNL-5820": "limits.conf is about logins; what a daemon may dump is systemd's to say",
    "LOGG-2154": "where logs go is the operator's choice",
    "LYNIS": "as old as Debian's",
    "MACF-6208": A_CONTAINER,
    "NAME-4028": "a cluster needs no domain; hosts know each other by /etc/hosts",
    "PKGS-7370": THE_SYSTEM,
    "PKGS-7394": THE_SYSTEM,
    "PKGS-7392": UPGRADES,
    "PKGS-7420": UPGRADES,
    "SSH-7408 ClientAliveCountMax": "dev-sec's ssh-baseline wants 3, lynis 2",
    "SSH-7408 MaxSessions": "dev-sec's ssh-baseline wants 10, lynis 2",
    "SSH-7408 Port": "another port hides nothing; ssh.port is there for who wants one",
    "STRG-1846": HARDWARE,
    "TOOL-5002": "it does not know Fiefdom",
    "USB-1000": HARDWARE,
}


def test_nothing_is_left_that_is_ours_to_do(target: Target) -> None:
    said = [line.split("=", 1) for line in target.run(RUN).splitlines()]
    index = next(int(value) for key, value in said if key == "hardening_index")
    left = [name_of(value) for key, value in said if key == "suggestion[]"]
    warnings = [value for key, value in said if key == "warning[]"]
    target.say("lynis", f"index {index}, {len(left)} suggestions, {len(warnings)} warnings")
    assert [value for value in warnings if value.partition("|")[0] not in DEBIANS_OWN] == []
    assert [item for item in left if item not in ACCEPTED] == []
    assert index >= LEAST_INDEX[target.codename]


def name_of(suggestion: str) -> str:
    test, _, about, *_ = suggestion.split("|")
    return f"{test} {about.split()[0]}" if test == "SSH-7408" else test
