# Blocks of Fiefdom's in files that are somebody else's: between two marks, whose words state.py has. A part of steps.sh.
# shellcheck disable=SC2015,SC2154,SC2174 # `fail` ends the script; names of steps.sh; only the last folder is to be closed
blocks=$state/blocks # by path, each as it was placed last
block_mark='# fiefdom:'

# FILE with the block of BLOCK in the place of the one that it has, or without any.
# Where the marks are damaged, nobody can tell where it ends. Then marks go, and after one that begins, or right before
# one that ends, lines that are known to be Fiefdom's; a line that nobody knows is somebody's own. With "whole", all of the
# file was Fiefdom's once, and such lines go wherever they stand.
with_block() { # file block|"" known [whole]
    awk -v mark="$block_mark" -v block="$2" -v known="$3" -v whole="${4:-}" '
        function words(line) { gsub(/[ \t]+/, " ", line); return line } # others, and an earlier Fiefdom, part them otherwise
        function put(line) { while (block != "" && (getline line < block) > 0) print line; placed = 1 }
        { lines[NR] = $0 }
        index($0, mark " begin") == 1 { begins++; from = NR; marked[NR] = "begin" }
        index($0, mark " end") == 1 { ends++; to = NR; marked[NR] = "end" }
        END {
            sound = begins == 1 && ends == 1 && from < to
            while (!sound && (getline line < known) > 0) ours[words(line)] = 1
            open = whole != ""
            for (i = 1; i <= NR; i++) {
                line = words(lines[i])
                if (marked[i]) {
                    split("", taken) # each line once: a second one is the own line of somebody
                    for (k = i - 1; marked[i] == "end" && !open && k > 0 && !marked[k]; k--) {
                        line = words(lines[k])
                        if (!(line in ours) || line in taken) break
                        gone[k] = taken[line] = 1
                    }
                    split("", taken)
                    open = marked[i] == "begin" || whole != ""
                } else if (open && line in ours && !(line in taken)) {
                    gone[i] = 1
                    if (whole == "") taken[line] = 1
                }
            }
            for (i = 1; i <= NR; i++) {
                if (marked[i] && !placed) put()
                if (marked[i] || gone[i] || sound && i > from && i < to) continue
                if (whole != "" && index(lines[i], "# Managed by Fiefdom") == 1) continue
                print lines[i]
            }
            if (!placed) put()
        }' "$1"
}

decode() { # path base64 file
    output=$({ printf '%s' "${2#-}" | base64 -d >"$3"; } 2>&1) || fail "$1" "cannot be staged: $output; $(free "$staging")"
}

# The file's mode, owner and other attributes are its own, and so is whether it is a link.
stage_block() { # path block around, both base64
    staged_name "$1"
    decode "$1" "$2" "$staged.block"
    decode "$1" "$3" "$staging/around"
    from=$1 whole=''
    # An earlier Fiefdom had the whole file, and may have kept what was there before.
    if is_ours file "$1"; then
        if [ -L "$originals$1" ]; then
            copy_over "$originals$1" "$1" || fail "$1" "what was there before cannot be put back: $output; $(free "$(dirname "$1")")"
        elif is_there "$originals$1"; then
            from=$originals$1
        else
            whole=yes
        fi
    elif sed 1q "$1" 2>/dev/null | grep -q '^# Managed by Fiefdom'; then
        whole=yes # by one that claimed nothing which it had found there
    fi
    digest_of "$1" >"$staged.from"
    output=$(lines_with_block "$1" "$from" "$whole" 2>&1) || fail "$1" "cannot be staged: $output; $(free "$staging")"
}

lines_with_block() { # path, the file that they are taken from, whole
    known=$staging/known
    cat "$staged.block" "$blocks$1" >"$known" 2>/dev/null
    [ -z "$3" ] || cat "$staging/around" >>"$known" || return
    if [ -e "$2" ]; then
        cp -a "$(readlink -f "$2")" "$staged" && : >"$staged" || return
        [ -z "$3" ] || cat "$staging/around" >>"$staged" || return
        with_block "$2" "$staged.block" "$known" "$3" >>"$staged"
    else
        cat "$staging/around" "$staged.block" >"$staged" && chmod 0644 "$staged"
    fi
}

place_block() { # path
    staged_name "$1"
    [ "$(digest_of "$1")" = "$(cat "$staged.from")" ] || fail "$1" "somebody has just written it; run it again"
    output=$({ mkdir -p -m 0700 "$blocks" && mkdir -p "$(dirname "$blocks$1")" "$(dirname "$1")"; } 2>&1) &&
        move_file "$staged.block" "$blocks$1" || fail "$1" "its block cannot be kept: $output; $(free "$state")"
    # What somebody wrote into the whole file that was Fiefdom's.
    if is_ours file "$1" && is_there "$originals$1" && is_there "$1" && ! is_known "$1" && ! grep -q "^$block_mark begin" "$1"; then
        keep_changed "$1"
    fi
    put_block "$1"
    # Forgotten before what was kept goes: else the next run of one that died in between would take it for Fiefdom's.
    ! is_ours file "$1" || grep -vxF "file$tab$1" "$manifest" | put_manifest || exit 1
    rm -f "$originals$1"
}

put_block() { # path
    target=$(readlink -f "$1")
    move_file "$staged" "$target" || fail "$1" "cannot be put into place: $output; $(free "$(dirname "$target")")"
}

remove_block() { # path
    if [ -e "$1" ]; then
        staged_name "$1"
        output=$({ cp -a "$(readlink -f "$1")" "$staged" && with_block "$1" '' "$blocks$1" >"$staged"; } 2>&1) ||
            fail "$1" "cannot be staged: $output; $(free "$staging")"
        cmp -s "$staged" "$1" || put_block "$1"
    fi
    rm -f "$blocks$1"
}
