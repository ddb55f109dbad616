# Commit-confirm on a host. What can cut the operator's line is kept before it changes, and put back unless a new login
# confirms the change in time; a reboot meanwhile puts it back as well. guard.py and steps.sh call it, with a verb.
# shellcheck disable=SC2015 # `fail` ends the script
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tab=$(printf '\t')
state=/var/lib/fiefdom
kept=$state/guard       # complete, with `pending` in it, exactly while a change waits for its confirmation
draft=$state/guard.new  # on its way there
verdict=$state/reverted # what was put back last, and why
confirmed=$state/confirmed # what was confirmed last: the answer may be lost on its way
armed=/run/fiefdom/guard-armed # gone after a reboot
timer=fiefdom-revert
at_boot=fiefdom-revert-boot.service
umask 077

fail() {
    printf 'fiefdom-failed\t%s\t%s\n' "$1" "$2"
    exit 1
}

seconds_up() { cut -d . -f 1 /proc/uptime; }

copy_name() { # path; two paths never share a name
    copy=$(printf '%s' "$1" | sha256sum)
    copy=${copy%% *}
}

locked() { exec 7>"$state/guard.lock" && flock 7; }

begin() {
    locked
    [ ! -e "$kept/pending" ] || fail "$kept" "another change waits for its confirmation; it takes itself back within $(($(cat "$kept/until") - $(seconds_up))) s"
    rm -rf "$draft" && mkdir -p "$draft" && : >"$draft/index" || fail "$draft" "cannot be created"
}

keep() { # kind name
    case $1 in
    file)
        copy_name "$2"
        { [ ! -e "$2" ] && [ ! -L "$2" ]; } || cp -a "$2" "$draft/$copy" || fail "$2" "cannot be kept"
        found=''
        ;;
    unit)
        # An empty field would let the next one take its place.
        found=$(systemctl is-enabled "$2" 2>/dev/null)
        found=${found:--}$tab$(systemctl is-active "$2" 2>/dev/null)
        ;;
    directory)
        found=absent
        [ ! -d "$2" ] || found=$(stat -c "%a$tab%u:%g" "$2") || fail "$2" "cannot be looked at"
        ;;
    sysctl) found=$(tr '\t' ' ' <"$2") || fail "$2" "cannot be read" ;;
    link)
        # Only what was set there: the kernel makes the routes of an address by itself, and routers tell of others.
        # The gateways' common address is keepalived's, and another host's by the time that this one is put back.
        moving=$(sed -n 's/^address //p' /etc/fiefdom/address.conf 2>/dev/null)
        for family in -4 -6; do
            ip -o "$family" addr show dev "$2" scope global 2>/dev/null | grep -v -e ' mngtmpaddr ' -e " ${moving:-none}/32 " >"$draft/addresses$family"
            ip "$family" route show dev "$2" 2>/dev/null | grep -v -e 'proto kernel' -e 'proto ra' >"$draft/routes$family"
        done
        found=''
        ;;
    esac
    printf '%s\t%s\t%s\n' "$1" "$2" "$found" >>"$draft/index" || fail "$draft/index" "cannot be written"
}

# `pending` comes last: where it is, the timer runs and the next boot knows of it.
arm() { # attempt seconds
    locked
    systemctl stop "$timer.timer" "$timer.service" 2>/dev/null # of a run that died before it had one
    systemctl reset-failed "$timer.service" 2>/dev/null
    printf '%s\n' "$(($(seconds_up) + $2))" >"$draft/until" && cp "$0" "$draft/guard.sh" && printf '%s\n' "$1" >"$draft/pending" &&
        sync -f "$draft" && rm -rf "$kept" "$verdict" "$confirmed" || fail "$draft" "cannot be written"
    (umask 022 && cat >"/etc/systemd/system/$at_boot") <<EOF || fail "$at_boot" "cannot be written"
[Unit]
Description=Fiefdom: take back a change that nobody confirmed before the reboot
DefaultDependencies=no
ConditionPathExists=$kept/pending
RequiresMountsFor=$kept /etc
After=local-fs.target
Before=network-pre.target systemd-sysctl.service systemd-networkd.service networking.service fiefdom-firewall.service nftables.service ssh.service ssh.socket

[Service]
Type=oneshot
TimeoutStartSec=60
ExecStart=/bin/sh $kept/guard.sh boot

[Install]
WantedBy=sysinit.target
EOF
    systemctl daemon-reload && systemctl -q enable "$at_boot" && sync -f /etc || fail "$at_boot" "cannot be enabled"
    (umask 022 && mkdir -p "${armed%/*}") && : >"$armed" || fail "$armed" "cannot be written"
    start_timer "$2" "nobody confirmed it within $2 s" || not_armed "$timer.timer" "cannot be started"
    mv -T "$draft" "$kept" && sync -f "$state" || not_armed "$kept" "cannot be written"
}

not_armed() { # thing reason
    disarm
    fail "$1" "$2"
}

# What cannot be put back, as on a full disk, is tried until it can; where there is nothing to put back, it ends.
start_timer() { # seconds why
    systemd-run --quiet --collect --unit="$timer" --on-active="$1" --timer-property=AccuracySec=500ms --service-type=oneshot \
        --property=Restart=on-failure --property=RestartSec=5 --property=StartLimitIntervalSec=0 \
        --description="Fiefdom: take back a change that nobody confirmed" \
        /bin/sh -c "[ ! -e $kept/guard.sh ] || exec /bin/sh $kept/guard.sh revert '$2'"
}

disarm() {
    systemctl stop "$timer.timer" 2>/dev/null
    systemctl -q disable "$at_boot" 2>/dev/null
    rm -f "/etc/systemd/system/$at_boot" "$armed"
    systemctl daemon-reload
    rm -rf "$kept"
}

each() { # kind function
    while IFS=$tab read -r kind name first second; do
        [ "$kind" != "$1" ] || "$2" "$name" "$first" "$second"
    done <"$kept/index"
}

stop_new() { # unit enabled active: while its file still says how to stop it
    case $3 in active | reloading | activating) return ;; esac
    # At boot its start is queued, and only a queued stop takes that away.
    if [ -e "$armed" ]; then
        systemctl -q is-active "$1" || return 0
        # Its sockets would start it again.
        [ "$1" != systemd-networkd.service ] ||
            systemctl stop systemd-networkd.socket systemd-networkd-varlink.socket 2>/dev/null
        systemctl stop "$1"
    elif [ "$1" = systemd-networkd.service ]; then # and who would wait for it
        systemctl --no-block stop "$1" systemd-networkd.socket systemd-networkd-wait-online.service
    else
        systemctl --no-block stop "$1"
    fi
}

put_back_file() { # path
    copy_name "$1"
    beside=${1%/*}/.fiefdom-revert
    if [ "$kept/$copy" -ef "$1" ] && [ ! -L "$1" ]; then
        : # by an earlier try, and `mv` takes no two names of one file
    elif [ -e "$kept/$copy" ] || [ -L "$kept/$copy" ]; then
        (umask 022 && mkdir -p "${1%/*}")
        rm -f "$beside"
        # Linked, for a full disk may be why there is something to put back.
        { ln "$kept/$copy" "$beside" 2>/dev/null || cp -a "$kept/$copy" "$beside"; } && mv -fT "$beside" "$1"
    else
        rm -f "$1"
    fi || missed="$1 cannot be put back"
}

put_back_directory() { # path mode owner
    if [ "$2" = absent ]; then
        rmdir "$1" 2>/dev/null # what somebody else put in it stays
    elif [ -d "$1" ]; then
        chown "$3" "$1" && chmod "$2" "$1" || missed="$1 cannot be put back"
    fi
}

put_back_disabled() { # unit enabled: while its file still says what that is
    case $2 in disabled | masked | not-found | -) systemctl -q disable "$1" 2>/dev/null ;; esac
}

put_back_enabled() { # unit enabled
    [ "$2" != enabled ] || systemctl -q enable "$1" 2>/dev/null
}

put_back_sysctl() { printf '%s\n' "$2" >"$1"; } # path value

put_back_link() { # interface
    ip -4 addr flush dev "$1" scope global
    for family in -4 -6; do
        while read -r _ _ _ address peer other _; do
            if [ "$peer" = peer ]; then
                ip addr replace "$address" peer "$other" dev "$1"
            elif [ "$family" = -4 ]; then
                ip addr replace "$address" brd + dev "$1"
            else
                ip addr replace "$address" dev "$1"
            fi
        done <"$kept/addresses$family"
        # Twice: a gateway outside the address's network is reached by a route that may stand below its own.
        for _ in 1 2; do
            # shellcheck disable=SC2086 # the words of a route
            while read -r route; do
                ip "$family" route replace $route dev "$1" 2>/dev/null
            done <"$kept/routes$family"
        done
    done
}

start_again() { # unit enabled active
    case $3 in active | reloading | activating) ;; *) return ;; esac
    systemctl reset-failed "$1" 2>/dev/null
    # At boot this unit is what the others wait for, and what the change had turned off is not among them.
    [ -e "$armed" ] || {
        systemctl --no-block start "$1"
        return
    }
    case $1 in
    # A new table takes the old one's place at once, with no moment without rules.
    fiefdom-firewall.service) systemctl reload-or-restart "$1" ;;
    *) systemctl restart "$1" ;;
    esac
}

# In the order of the index: the network, then the firewall, then sshd, so that each finds what lets the operator in.
revert() { # why
    # Of a change that hangs, no step may come after the way back. It takes the way back itself as it ends.
    [ -e "$kept/applied" ] || [ -e "$kept/reverting" ] || [ ! -e "$armed" ] || [ -n "${GUARD_WITHIN:-}" ] ||
        timeout 15 systemctl stop fiefdom-turn.service 2>/dev/null ||
        systemctl kill --signal=KILL fiefdom-turn.service 2>/dev/null
    locked
    [ -e "$kept/pending" ] || {
        disarm # of one that died on its way, here or there
        return 0
    }
    # From here on nobody can confirm it. Renamed, which a full disk allows.
    mv -f "$kept/applied" "$kept/reverting" 2>/dev/null
    missed=''
    each unit stop_new
    each unit put_back_disabled
    each file put_back_file
    each directory put_back_directory
    systemctl daemon-reload
    each unit put_back_enabled
    sync -f /etc
    if [ -e "$armed" ]; then
        each sysctl put_back_sysctl
        each link put_back_link
    fi
    each unit start_again
    # The host may let nobody in as it is: its backup stays, and so do the timer and the unit of the next boot.
    [ -z "$missed" ] || fail "$kept" "$missed"
    printf '%s\t%s\n' "$(cat "$kept/pending")" "$1" >"$verdict"
    rm -f "$kept/pending" && sync -f "$kept"
    disarm
    logger -t fiefdom "took back a change: $1" 2>/dev/null
    return 0
}

boot() {
    rm -f "$armed" # a soft reboot keeps it
    why="the host rebooted before it was confirmed"
    (revert "$why") && return
    (umask 022 && mkdir -p "${armed%/*}") && : >"$armed" # others keep there what is no secret
    start_timer 5 "$why"
    return 1
}

ask() { # attempt; prints what has become of it
    if [ "$(cat "$kept/pending" 2>/dev/null)" != "$1" ]; then
        if [ "$(cat "$confirmed" 2>/dev/null)" = "$1" ]; then
            printf 'confirmed\n'
        elif [ "$(cut -f 1 "$verdict" 2>/dev/null)" = "$1" ]; then
            printf 'reverted\t%s\n' "$(cut -f 2 "$verdict")"
        else
            printf 'unknown\n'
        fi
    elif [ ! -e "$kept/applied" ]; then
        printf 'applying\n'
    else
        printf 'waiting\n'
    fi
}

confirm() { # attempt
    locked
    answer=$(ask "$1")
    if [ "$answer" = waiting ]; then
        printf '%s\n' "$1" >"$confirmed"
        rm -f "$kept/pending" && sync -f "$kept"
        disarm
        answer=confirmed
    fi
    printf '%s\n' "$answer"
}

verb=$1
shift
case $verb in
begin) begin ;;
keep) # kind name, and so on
    while [ $# -gt 0 ]; do
        keep "$1" "$2"
        shift 2
    done
    ;;
arm) arm "$@" ;;
applied) : >"$kept/applied" ;;
ask) ask "$1" ;;
confirm) confirm "$1" ;;
revert) revert "$1" ;;
boot) boot ;;
revert-now) # from a session that may not outlive it; the unit's own words are about its time
    [ -e "$kept/pending" ] || exit 0
    systemctl start "$timer.service"
    ;;
*) fail "$verb" "is nothing this script knows" ;;
esac
