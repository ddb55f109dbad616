# What was on a host before Fiefdom came, or came beside it since: facts that doctor.py makes findings of.
# A part of snapshot.sh; prints records `guest KIND FIELD...`, and nothing of what is not there.
tab=$(printf '\t')

guest() { # kind, fields
    line=guest
    for field in "$@"; do line=$line$tab$field; done
    printf '%s\n' "$line"
}

# Another firewall's rules are its own to read only where it drops what it does not know.
guest_firewall() {
    # Its unit tells nothing: it is active where ufw is turned off, and is not where that was turned on since.
    ! command -v ufw >/dev/null || ! grep -qsi '^ENABLED=yes' /etc/ufw/ufw.conf || guest firewall ufw
    [ "$firewalld" != active ] || guest firewall firewalld
    # Asked whether it has rules, the older iptables would make tables for them.
    legacy=$(cat /proc/net/ip_tables_names 2>/dev/null)
    for save in iptables-save ${legacy:+iptables-legacy-save}; do
        command -v "$save" >/dev/null || continue
        rules=$("$save" -t filter 2>/dev/null) || continue
        case $rules in *':INPUT DROP'*) guest firewall iptables ;; esac
        printf '%s\n' "$rules" | grep -e '-j ACCEPT' | grep -v -e '^-A DOCKER' -e '^-A FORWARD' | head -n 200 |
            sed "s/^/guest${tab}passes$tab/"
    done
    command -v nft >/dev/null || return 0
    # Of tables that neither Fiefdom nor iptables owns, which speaks of its rules in its own way above.
    nft list ruleset 2>/dev/null | awk -v tab="$tab" '
        /^table / { table = $2 " " $3; skip = ($3 ~ /^fiefdom/ || $3 ~ /^docker/ || $2 ~ /^ip6?$/ && $3 ~ /^(filter|nat|mangle|raw|security)$/) }
        skip { next }
        /hook input/ && /policy drop/ { print "guest" tab "firewall" tab "nftables table " table }
        /accept/ && /dport|saddr/ && ++lines <= 200 { gsub(/[ \t]+/, " "); print "guest" tab "passes" tab $0 }'
}

guest_docker() {
    [ ! -e /snap/bin/docker ] || guest docker snap
    case $(readlink -f "$(command -v docker)") in *podman*) guest docker podman ;; esac
    path=/etc/docker/daemon.json
    # Secrets of a proxy may stand in it, but root's own answer to the operator is no wider than the file.
    [ ! -s "$path" ] || guest daemon "$(base64 -w 0 <"$path" | head -c 65536)"
    # What Fiefdom set up is no node of a Swarm, and has its data where that file says.
    ! grep -qsF "file$tab$path" /var/lib/fiefdom/manifest || return 0
    info=$(docker info --format "{{.Swarm.LocalNodeState}}$tab{{.DockerRootDir}}$tab{{.Containers}}" 2>/dev/null) || return 0
    case $info in "active$tab"*) guest docker swarm ;; esac
    guest data-root "${info#*"$tab"}"
}

guest_part() {
    guest clock "$(date +%s)"
    # One line each, in this order.
    # shellcheck disable=SC2046
    set -- $(systemctl is-active firewalld ssh.socket 2>/dev/null)
    firewalld=${1:-}
    [ "${2:-}" != active ] || guest ssh-socket
    guest_firewall
    guest_docker
    ss -Hltnup 2>/dev/null | awk -v tab="$tab" '{
        process = "somebody"
        if (match($0, /users:\(\("[^"]*"/)) process = substr($0, RSTART + 9, RLENGTH - 10)
        print "guest" tab "listens" tab $1 tab $5 tab process
    }' | sort -u | head -n 300
    [ ! -e /run/reboot-required ] || guest reboot "$(tr '\n' ' ' </run/reboot-required.pkgs 2>/dev/null)"
    ! grep -qsE '^[[:space:]]*manage_etc_hosts:[[:space:]]*["'"'"']?([Tt]rue|localhost)' /etc/cloud/cloud.cfg /etc/cloud/cloud.cfg.d/*.cfg ||
        guest cloud-init-hosts
    [ ! -x /usr/bin/unattended-upgrade ] || apt-config dump APT::Periodic::Unattended-Upgrade Unattended-Upgrade::Package-Blacklist 2>/dev/null |
        sed "s/^/guest${tab}upgrades$tab/"
    return 0
}
