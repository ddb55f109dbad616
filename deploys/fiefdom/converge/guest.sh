# What was on a host before Fiefdom came, or came beside it since: facts that doctor.py makes findings of.
# A part of snapshot.sh; prints records `guest KIND FIELD...`, and nothing of what is not there. Reads of snapshot.sh `tab`,
# `newline`, what was asked, the manifest of what Fiefdom made, and what systemd says of firewalld and of sshd's socket.
# shellcheck disable=SC2154

guest() { # kind, fields
    line=guest
    for field in "$@"; do line=$line$tab$field; done
    printf '%s\n' "$line"
}

is_active() { # what systemd says of a unit
    case $newline$1$newline in *"${newline}ActiveState=active$newline"*) ;; *) return 1 ;; esac
}

guest_firewall() {
    # Its unit tells nothing: it is active where ufw is turned off, and is not where that was turned on since.
    ! command -v ufw >/dev/null || ! grep -qsi '^ENABLED=yes' /etc/ufw/ufw.conf || guest firewall ufw
    ! is_active "$firewalld" || guest firewall firewalld
    # Asked whether it has rules, the older iptables would make tables for them.
    legacy=''
    [ ! -r /proc/net/ip_tables_names ] || IFS= read -r legacy </proc/net/ip_tables_names
    {
        for save in iptables-save ${legacy:+iptables-legacy-save}; do
            command -v "$save" >/dev/null || continue
            for table in filter nat; do
                printf 'rules: %s\n' "$table"
                "$save" -t "$table" 2>/dev/null
            done
        done
        ! command -v nft >/dev/null || {
            printf 'rules: nft\n'
            nft list ruleset 2>/dev/null
        }
    } | guest_rules
}

# Another firewall's rules are its own to read only where it drops what it does not know. And what else turns packets to a
# port elsewhere before any socket sees them; Docker's own chain is told by what containers publish. Of tables in nft those
# that neither Fiefdom nor iptables owns, which speaks of its rules in its own way.
guest_rules() {
    awk -v tab="$tab" '
        function firewall(what) { print "guest" tab "firewall" tab what }
        function passes() { if (++lines <= 200) print "guest" tab "passes" tab $0 }
        function turns() { if (++turned <= 100) print "guest" tab "turns" tab $0 }
        /^rules: / { rules = $2; if (rules != "nat") lines = drops = 0; next }
        rules == "filter" && !drops && /:INPUT DROP/ { drops = 1; firewall("iptables") }
        rules == "filter" && /-j ACCEPT/ && !/^-A (DOCKER|FORWARD)/ { passes() }
        rules == "nat" && /-j (DNAT|REDIRECT)/ && !/^-A (DOCKER|OUTPUT) / { turns() }
        rules != "nft" { next }
        /^table / {
            table = $2 " " $3; ours = $3 ~ /^(fiefdom|docker)/
            filters = !ours && !($2 ~ /^ip6?$/ && $3 ~ /^(filter|nat|mangle|raw|security)$/)
            turning = !ours && !($2 ~ /^ip6?$/ && $3 == "nat")
        }
        filters && /hook input/ && /policy drop/ { firewall("nftables table " table) }
        { gsub(/[ \t]+/, " ") }
        filters && /accept/ && /dport|saddr/ { passes() }
        turning && /dport/ && /dnat|redirect/ { turns() }'
}

# A part of awk programs: of the lines that they `keep`, the `most` that sort first are printed, each once.
# shellcheck disable=SC2016 # awk's
guest_sorted='
    function keep(text, i) {
        if (text in kept) return
        if (count == most) {
            if (text > list[count]) return
            delete kept[list[count--]]
        }
        kept[text]
        for (i = ++count; i > 1 && list[i - 1] > text; i--) list[i] = list[i - 1]
        list[i] = text
    }
    END { for (i = 1; i <= count; i++) print list[i] }'

# Other lines of /etc/hosts with a name that stands in Fiefdom's block: who asks for it may get either address.
guest_names() {
    { [ -n "$asked_name" ] && [ -r /etc/hosts ]; } || return 0
    awk -v tab="$tab" -v most=50 "$guest_sorted"'
        NR == FNR { names[tolower($1)] = $1; next }
        /^# fiefdom: begin/ { ours = 1 }
        /^# fiefdom: end/ { ours = 0 }
        ours { next }
        { sub(/#.*/, "") }
        { for (i = 2; i <= NF; i++) if (tolower($i) in names) keep("guest" tab "named" tab $1 tab names[tolower($i)]) }
    ' - /etc/hosts <<END
$asked_name
END
}

# A file that cloud-init writes /etc/hosts from at each boot, where it does; user data may ask for it, and has the last word.
guest_cloud_init() {
    cfg=/etc/cloud/cloud.cfg
    { [ -d /etc/cloud ] || [ -d /var/lib/cloud ]; } || return 0
    ! grep -qsiE '^[[:space:]]*manage_etc_hosts:[[:space:]]*["'"'"']?(true|yes|on|1|template)\b' \
        "$cfg" "$cfg".d/*.cfg /var/lib/cloud/instance/*cloud-config.txt ||
        guest cloud-init-hosts "$(ls /etc/cloud/templates/hosts.debian.tmpl 2>/dev/null)"
}

# The daemon.json that was here before Fiefdom's: the kept original, else what is here and not Fiefdom's.
own_daemon() { # as `theirs`
    path=/etc/docker/daemon.json
    theirs=/var/lib/fiefdom/originals$path
    if [ -L "$theirs" ]; then
        # As it led from its own place.
        theirs=$(cd "${path%/*}" 2>/dev/null && readlink -f "$(readlink "$theirs")")
    elif [ ! -e "$theirs" ]; then
        theirs=''
        is_fiefdoms "$path" || theirs=$path
    fi
    [ -s "$theirs" ] || theirs=''
}

is_fiefdoms() { # path
    case $newline$manifest$newline in *"${newline}file$tab$1$newline"*) ;; *) return 1 ;; esac
}

# Where Docker has its images by that, which goes on where the inventory says nothing.
own_data_root() {
    own_daemon
    [ -z "$theirs" ] || tr -d '\n' <"$theirs" | sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\(\/[^"]*\)".*/\1/p'
}

guest_docker() {
    [ ! -e /snap/bin/docker ] || guest docker snap
    case $(readlink -f "$docker") in *podman*) guest docker podman ;; esac
    # Secrets of a proxy may stand in it, but root's own answer to the operator is no wider than the file.
    own_daemon
    [ ! -s "$path" ] || printf "guest${tab}daemon$tab%.65536s\n" "$(base64 -w 0 <"$path")"
    [ -z "$theirs" ] || guest own-daemon "$(base64 -w 0 <"$theirs" | head -c 65536)" "$(stat -L -c %a "$theirs")"
    # What Fiefdom set up is no node of a Swarm, and has its data where that file says.
    ! is_fiefdoms "$path" || return 0
    info=$(docker info --format "{{.Swarm.LocalNodeState}}$tab{{.DockerRootDir}}$tab{{.Containers}}" 2>/dev/null) || return 0
    case $info in "active$tab"*) guest docker swarm ;; esac
    guest data-root "${info#*"$tab"}"
}

guest_part() {
    date "+guest${tab}clock$tab%s"
    ! is_active "$ssh_socket" || guest ssh-socket
    guest_firewall
    guest_docker
    guest_names
    ss -Hltnup 2>/dev/null | awk -v tab="$tab" -v most=300 "$guest_sorted"'{
        process = "somebody"
        if (match($0, /users:\(\("[^"]*"/)) process = substr($0, RSTART + 9, RLENGTH - 10)
        keep("guest" tab "listens" tab $1 tab $5 tab process)
    }'
    [ ! -e /run/reboot-required ] || guest reboot "$(tr '\n' ' ' </run/reboot-required.pkgs 2>/dev/null)"
    guest_cloud_init
    [ ! -x /usr/bin/unattended-upgrade ] || apt-config dump APT::Periodic::Unattended-Upgrade Unattended-Upgrade::Package-Blacklist 2>/dev/null |
        sed "s/^/guest${tab}upgrades$tab/"
    return 0
}
