# What a host held where Fiefdom's own is now: kept once, given back when that goes. A part of steps.sh.
# shellcheck disable=SC2015,SC2154,SC2174 # `fail` ends the script; names of steps.sh; only the last folder is to be closed
originals=$state/originals            # by path, with mode and owner, links as links
placed=$state/originals.placed        # what took their places: digest, path
changed=$state/originals.changed      # what somebody else wrote there later
units_before=$state/originals.units   # unit, enabled, active

is_there() { [ -e "$1" ] || [ -L "$1" ]; }

is_same() { # one other
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ "$(readlink "$1")" = "$(readlink "$2")" ]
    else
        cmp -s "$1" "$2"
    fi
}

digest_of() { sha256sum 2>/dev/null <"$1" | cut -c 1-64; }

is_ours() { # kind name
    grep -qxF "$1$tab$2" "$manifest" 2>/dev/null
}

# Whether what is there is Fiefdom's, or the original itself; else somebody wrote it later.
is_known() { # path
    is_same "$originals$1" "$1" || grep -qxF "$(digest_of "$1")$tab$1" "$placed" 2>/dev/null
}

copy_over() { # from to; at once, and on the disk; says in $output why it could not
    output=$({ mkdir -p "$(dirname "$2")" && rm -f "$staging/copy" && cp -a "$1" "$staging/copy"; } 2>&1) &&
        move_file "$staging/copy" "$2" && output=$(sync -f "$(dirname "$2")" 2>&1)
}

# An earlier one stays: a run that died may have been at it, or Fiefdom left and what lets the operator in stayed.
keep_original() { # path, which becomes Fiefdom's
    is_there "$1" || return 0
    if ! is_there "$originals$1"; then
        output=$(mkdir -p -m 0700 "$originals" 2>&1) && copy_over "$1" "$originals$1" ||
            fail "$1" "what is there cannot be kept: $output; $(free "$state")"
    elif ! is_known "$1"; then
        keep_changed "$1"
    fi
    case ${1#/etc/systemd/system/} in
    */* | *@.*) ;;
    *) keep_unit "${1##*/}" ;;
    esac
}

keep_changed() { # path
    number=1
    while is_there "$changed$1.$number"; do number=$((number + 1)); done
    output=$(mkdir -p -m 0700 "$changed" 2>&1) && copy_over "$1" "$changed$1.$number" ||
        fail "$1" "what is there cannot be kept: $output; $(free "$state")"
}

keep_unit() { # unit
    ! cut -f 1 "$units_before" 2>/dev/null | grep -qxF "$1" || return 0
    enabled=$(systemctl is-enabled "$1" 2>/dev/null)
    active=$(systemctl is-active "$1" 2>/dev/null)
    printf '%s\t%s\t%s\n' "$1" "${enabled:--}" "${active:--}" >>"$units_before" || fail "$1" "what it is cannot be kept"
}

# Of units that are not Fiefdom's, only what it really changes.
keep_turned() { # unit enable|disable
    ! is_ours unit "$1" || return 0
    case $2:$(systemctl is-enabled "$1" 2>/dev/null) in enable:disabled | disable:enabled) keep_unit "$1" ;; esac
}

note_placed() { # path staged
    is_there "$originals$1" || return 0
    line=$(digest_of "$2")$tab$1
    grep -qxF "$line" "$placed" 2>/dev/null || (umask 077 && printf '%s\n' "$line" >>"$placed") ||
        fail "$placed" "cannot be written; $(free "$state")"
}

remove_file() { # path
    if is_there "$originals$1"; then
        give_back "$1"
    else
        rm -f "$1" || fail "$1" "cannot be removed"
    fi
}

# It is forgotten before what was kept goes: else the next run of one that died in between would remove the original.
give_back() { # path
    ! is_there "$1" || is_known "$1" || keep_changed "$1"
    copy_over "$originals$1" "$1" || fail "$1" "what was there before cannot be put back: $output; $(free "$(dirname "$1")")"
    grep -vxF "file$tab$1" "$manifest" | put_manifest || exit 1
    rm -f "$originals$1" || fail "$originals$1" "cannot be removed"
    [ "$1" != /etc/hostname ] || hostname "$(head -n 1 /etc/hostname)" || fail hostname "cannot be set again"
}

# What runs goes on: containers may, under a Docker that was off.
unit_back() { # unit
    before=$(awk -F "$tab" -v unit="$1" '$1 == unit { print $2 " " $3 }' "$units_before" 2>/dev/null)
    case $before in
    enabled\ *) output=$(systemctl -q enable "$1" 2>&1) ;;
    disabled\ *) output=$(systemctl -q disable "$1" 2>&1) ;;
    *) output='' ;;
    esac || fail "$1" "cannot be as it was before Fiefdom ($before): $output"
    case $before in *\ active) systemctl --no-block start "$1" 2>/dev/null ;; esac
    awk -F "$tab" -v unit="$1" '$1 != unit' "$units_before" 2>/dev/null >"$staging/units" &&
        move_file "$staging/units" "$units_before" || fail "$units_before" "cannot be written"
}

# What lets the operator in stays Fiefdom's, and then what was there before stays here.
erase() {
    find "$originals" ! -type d 2>/dev/null | while IFS= read -r kept; do
        ! is_same "$kept" "${kept#"$originals"}" || rm -f "$kept"
    done
    find "$originals" "$changed" -depth -type d -empty -delete 2>/dev/null
    is_there "$originals" || rm -f "$placed"
    rmdir "$state/volumes"/* "$state/volumes" 2>/dev/null # where they hold none
    find "${state:?}" -mindepth 1 -maxdepth 1 ! -path "$originals" ! -path "$placed" ! -path "$changed" \
        ! -path "$state/volumes" -exec rm -rf {} + ||
        fail "$state" "cannot be removed"
    rmdir "$state" 2>/dev/null || :
}
