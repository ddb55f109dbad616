# What sshd makes of a drop-in of ours, by its own word (`sshd -T`): its file may be read late, in part, or not at all.
# steps.sh asks before and after the drop-in is live, snapshot.sh at every look; both have a folder for what is written.
sshd_main=/etc/ssh/sshd_config

# The main file as it would read with CANDIDATE in the place of INSTALLED. A line stays a line, so that numbers hold.
sshd_with() ( # installed candidate
    set -f
    while IFS= read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2154 # tab, as both readers have it
        IFS=" $tab\"="
        # shellcheck disable=SC2086 # split at blanks, quotes and the sign that may stand after a keyword
        set -- "$1" "$2" $line
        unset IFS
        case ${3:-} in
        [Ii][Nn][Cc][Ll][Uu][Dd][Ee]) sshd_include "$@" ;;
        *) printf '%s\n' "$line" ;;
        esac
    done <"$sshd_main"
)

sshd_include() { # installed candidate include pattern...
    installed=$1 candidate=$2 parts=''
    shift 3
    for pattern; do
        case $pattern in
        '#'*) break ;;
        '') continue ;;
        /*) ;;
        *) pattern=/etc/ssh/$pattern ;;
        esac
        for part in $(
            set +f
            # shellcheck disable=SC2086,SC2254 # a pattern
            {
                ls -d $pattern 2>/dev/null
                case $installed in $pattern) printf '%s\n' "$installed" ;; esac
            } | sort -u
        ); do
            [ "$part" != "$installed" ] || part=$candidate
            parts="$parts \"$part\""
        done
    done
    printf '%s\n' "${parts:+Include$parts}"
}

# Whoever has a shell: what a Match line says of one is no other's business.
sshd_users() { getent passwd | awk -F: '$7 !~ /\/(nologin|false|sync)$/ && $1 !~ /[, ]/ { print $1 }'; } # `sshd -T -C` could not name others

# What holds for one who comes from where the operator does.
sshd_settings() { # file user option...
    from=${client:-${SSH_CONNECTION:-127.0.0.1}}
    from=${from%% *}
    spec=user=$2,host=$from,addr=$from,laddr=127.0.0.1,lport=22,rdomain=
    set -- "$@" -f "$1" -C "$spec"
    shift 2
    /usr/sbin/sshd -T "$@"
}

# A sentence for each setting of CANDIDATE that is another in the place of INSTALLED, with the line that makes it so.
sshd_judge() { # installed candidate folder
    installed=$1 candidate=$2 folder=$3
    sshd_with "$installed" "$candidate" >"$folder/main"
    # Alone, the drop-in says what is wanted in the words that sshd itself has for it.
    /usr/sbin/sshd -T -f "$candidate" >"$folder/wanted" 2>"$folder/heard" || { sshd_refuses; return; }
    for user in root $(sshd_users | grep -vxF root); do
        sshd_settings "$folder/main" "$user" >"$folder/found" 2>"$folder/heard" || { sshd_refuses; break; }
        # It tells of every line that it reads. Not at once with the settings, of which LogLevel would be another.
        sshd_settings "$folder/main" "$user" -ddd 2>&1 >/dev/null | tr -d '\r' >"$folder/heard"
        grep -q 'Match' "$folder/heard" && who=$user || who=''
        sshd_differences "$who"
        # Without such lines, all are alike.
        [ -n "$who" ] || break
    done | sshd_sentences
}

sshd_refuses() {
    word=$(tr -d '\r' <"$folder/heard" | grep -v ': terminating, ' | tail -n 1)
    case $word in "$folder/main: "*) word="$sshd_main ${word#*: }" ;; esac
    printf 'sshd refuses its configuration: %s\n' "$word"
}

sshd_differences() { # user; lines of setting, found, wanted, whose line it is, user
    awk -v who="$1" -v candidate="$candidate" -v installed="$installed" \
        -v folder="$folder" -v main="$sshd_main" '
        function values(file, of, all, line, key) { # of each setting its values, in one order
            while ((("sort -u " file) | getline line) > 0) {
                key = line; sub(/ .*/, "", key); sub(/^[^ ]* ?/, "", line)
                of[key] = (of[key] == "" ? "" : of[key] ", ") line
            }
        }
        BEGIN { values(folder "/wanted", wanted); values(folder "/found", found) }
        / setting / {
            again = $2 == "reprocess" # for what holds under its Match lines
            at = again ? main substr($3, 7) : $2; key = tolower(again ? $5 : $4)
            if (index(at, candidate ":") == 1) { read = 1; next }
            if (index(at, folder "/main:") == 1) at = main substr(at, length(folder "/main") + 1)
            # The first wins, but for what stands under a Match line.
            if (!(key in by) || (again && !matched[key])) by[key] = at
            if (again) matched[key] = 1
        }
        END {
            if (!read) { print "\t" installed "\t" main; exit }
            while ((getline line < candidate) > 0) {
                split(line, word, " "); key = tolower(word[1])
                if (line ~ /^[ \t]*(#|$)/ || seen[key]++ || found[key] == wanted[key]) continue
                at = by[key]; sub(/:[0-9]+$/, " line&", at); sub(/ line:/, " line ", at)
                print word[1] "\t" found[key] "\t" wanted[key] "\t" at "\t" who
            }
        }' "$folder/heard"
}

sshd_sentences() {
    awk -F '\t' '
        NF == 1 { print; next } # of its own
        $1 == "" { print "sshd does not read it: write `Include /etc/ssh/sshd_config.d/*.conf` as the first line of " $3; exit }
        {
            told = $1 "\t" $2 "\t" $3 "\t" $4
            if (!(told in users)) order[++n] = told
            users[told] = users[told] (users[told] == "" ? "" : ", ") $5
        }
        END {
            for (i = 1; i <= n; i++) {
                split(order[i], part, "\t"); who = users[order[i]]
                print part[1] " is " part[2] (who == "" ? "" : " for " who) ", wanted " part[3] (part[4] == "" ? "" : ": " part[4])
            }
        }'
}

# What each who has a shell can log in by: lines of user, ways, and what sshd forwards for that user.
sshd_ways() { # main-file folder path...; paths of keys that are there or will be
    main=$1 folder=$2
    shift 2
    for user in $(sshd_users); do
        sshd_settings "$main" "$user" >"$folder/found" 2>/dev/null || return
        forwards=$(sed -n 's/^allowtcpforwarding //p' "$folder/found")
        printf '%s\t%s\t%s\n' "$user" "$(sshd_ways_of "$user" "$@")" "$forwards"
    done
}

sshd_in_group() { # user patterns
    for group in $(id -Gn "$1"); do
        for pattern in $2; do
            # shellcheck disable=SC2254
            case $group in $pattern) return 0 ;; esac
        done
    done
    return 1
}

sshd_ways_of() { # user path...
    user=$1 allow='' deny='' allow_groups='' deny_groups='' keys='' ways=''
    shift
    home=$(getent passwd "$user" | cut -d : -f 6)
    while read -r setting value; do
        case $setting in
        allowusers) allow="$allow $value" ;;
        denyusers) deny="$deny $value" ;;
        allowgroups) allow_groups="$allow_groups $value" ;;
        denygroups) deny_groups="$deny_groups $value" ;;
        permitrootlogin) root=$value ;;
        passwordauthentication) password=$value ;;
        kbdinteractiveauthentication) asked=$value ;;
        pubkeyauthentication) pubkey=$value ;;
        authorizedkeysfile) keys=$value ;;
        authorizedkeyscommand) command=$value ;;
        esac
    done <"$folder/found"
    set -f
    for pattern in $deny; do
        # shellcheck disable=SC2254
        case $user in ${pattern%%@*}) return ;; esac
    done
    [ -z "$allow" ] || {
        allowed=no
        for pattern in $allow; do
            # shellcheck disable=SC2254
            case $user in ${pattern%%@*}) allowed=yes ;; esac
        done
        [ "$allowed" = yes ] || return
    }
    ! sshd_in_group "$user" "$deny_groups" || return
    [ -z "$allow_groups" ] || sshd_in_group "$user" "$allow_groups" || return
    [ "$user:${root:-}" != root:no ] || return
    case $password$asked:$(getent shadow "$user" | cut -d : -f 2) in
    *yes*:'$'*) case $user:${root:-} in root:without-password | root:prohibit-password | root:forced*) ;; *) ways=password ;; esac ;;
    esac
    [ "${pubkey:-}" = yes ] || { printf %s "$ways"; return; }
    held=no
    [ "${command:-none}" = none ] || held=yes
    for path in $keys; do
        path=$(printf '%s' "$path" | sed "s|%u|$user|g; s|%h|$home|g; s|%%|%|g")
        case $path in /*) ;; *) path=$home/$path ;; esac
        ! { grep -qs '^[^#]' "$path" || printf '%s\n' "$@" | grep -qxF "$path"; } || held=yes
    done
    [ "$held" = no ] || ways=${ways:+$ways and }key
    printf %s "$ways"
}
