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

# What containers publish that are not Fiefdom's: no socket of the host's tells whose it is, and some have none.
guest_published() {
    docker ps --format "{{.Label \"fiefdom.name\"}}$tab{{.Names}}$tab{{.Ports}}" 2>/dev/null |
        sed -n "s/^$tab\(.*$tab..*\)/guest${tab}publishes$tab\1/p" | head -n 100
}

# What else turns packets to a port elsewhere before any socket sees them; Docker's own chain is told above.
guest_nat() {
    for save in iptables-save ${legacy:+iptables-legacy-save}; do
        command -v "$save" >/dev/null || continue
        "$save" -t nat 2>/dev/null | grep -E -e '-j (DNAT|REDIRECT)' | grep -v -e '^-A DOCKER ' -e '^-A OUTPUT '
    done
    command -v nft >/dev/null || return 0
    nft list ruleset 2>/dev/null | awk '
        /^table / { skip = ($3 ~ /^fiefdom/ || $3 ~ /^docker/ || $2 ~ /^ip6?$/ && $3 == "nat") }
        !skip && /dport/ && /dnat|redirect/ { gsub(/[ \t]+/, " "); print }'
}

# Other lines of /etc/hosts with a name that stands in Fiefdom's block: who asks for it may get either address.
guest_names() {
    # shellcheck disable=SC2154 # as snapshot.sh has it
    [ ! -r /etc/hosts ] || printf '%s\n' "$query" | sed -n "s/^name$tab//p" | awk -v tab="$tab" '
        NR == FNR { names[tolower($1)] = $1; next }
        /^# fiefdom: begin/ { ours = 1 }
        /^# fiefdom: end/ { ours = 0 }
        ours { next }
        { sub(/#.*/, "") }
        { for (i = 2; i <= NF; i++) if (tolower($i) in names) print "guest" tab "named" tab $1 tab names[tolower($i)] }
    ' - /etc/hosts | sort -u | head -n 50
}

# A file that cloud-init writes /etc/hosts from at each boot, where it does; user data may ask for it, and has the last word.
guest_cloud_init() {
    cfg=/etc/cloud/cloud.cfg
    ! grep -qsiE '^[[:space:]]*manage_etc_hosts:[[:space:]]*["'"'"']?(true|yes|on|1|template)\b' \
        "$cfg" "$cfg".d/*.cfg /var/lib/cloud/instance/*cloud-config.txt ||
        guest cloud-init-hosts "$(ls /etc/cloud/templates/hosts.debian.tmpl 2>/dev/null)"
}

# The daemon.json that was here before Fiefdom's: the kept original, else what is here and not Fiefdom's.
own_daemon() {
    path=/etc/docker/daemon.json
    theirs=/var/lib/fiefdom/originals$path
    if [ -L "$theirs" ]; then
        # As it led from its own place.
        theirs=$(cd "${path%/*}" 2>/dev/null && readlink -f "$(readlink "$theirs")")
    elif [ ! -e "$theirs" ]; then
        ! grep -qsxF "file$tab$path" /var/lib/fiefdom/manifest || return 0
        theirs=$path
    fi
    [ ! -s "$theirs" ] || printf '%s\n' "$theirs"
}

# Where Docker has its images by that, which goes on where the inventory says nothing.
own_data_root() {
    theirs=$(own_daemon)
    [ -z "$theirs" ] || tr -d '\n' <"$theirs" | sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\(\/[^"]*\)".*/\1/p'
}

guest_docker() {
    [ ! -e /snap/bin/docker ] || guest docker snap
    case $(readlink -f "$(command -v docker)") in *podman*) guest docker podman ;; esac
    path=/etc/docker/daemon.json
    # Secrets of a proxy may stand in it, but root's own answer to the operator is no wider than the file.
    [ ! -s "$path" ] || guest daemon "$(base64 -w 0 <"$path" | head -c 65536)"
    theirs=$(own_daemon)
    [ -z "$theirs" ] || guest own-daemon "$(base64 -w 0 <"$theirs" | head -c 65536)" "$(stat -L -c %a "$theirs")"
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
    guest_nat | head -n 100 | sed "s/^/guest${tab}turns$tab/"
    guest_docker
    guest_published
    guest_names
    ss -Hltnup 2>/dev/null | awk -v tab="$tab" '{
        process = "somebody"
        if (match($0, /users:\(\("[^"]*"/)) process = substr($0, RSTART + 9, RLENGTH - 10)
        print "guest" tab "listens" tab $1 tab $5 tab process
    }' | sort -u | head -n 300
    [ ! -e /run/reboot-required ] || guest reboot "$(tr '\n' ' ' </run/reboot-required.pkgs 2>/dev/null)"
    guest_cloud_init
    [ ! -x /usr/bin/unattended-upgrade ] || apt-config dump APT::Periodic::Unattended-Upgrade Unattended-Upgrade::Package-Blacklist 2>/dev/null |
        sed "s/^/guest${tab}upgrades$tab/"
    return 0
}
