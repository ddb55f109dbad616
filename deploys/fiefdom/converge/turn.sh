# Takes steps as steps.sh does, in a unit of its own: where the operator's connection breaks off, the host ends its turn alone.
# Reads steps on standard input and prints what steps.sh prints. steps_script.py puts steps.sh below.
# shellcheck disable=SC2015 # `fail` ends the script
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# In memory, for steps hold secrets until they are taken.
turn=/run/fiefdom/turn
unit=fiefdom-turn.service
umask 077

fail() {
    printf 'fiefdom-failed\t%s\t%s\n' "$1" "$2"
    exit 1
}

(umask 022 && mkdir -p "${turn%/*}") && mkdir -p "$turn" && exec 8>"$turn/lock" && flock -w 900 8 || fail "$turn/lock" "another turn has held it for fifteen minutes"
# Its operator went away; it ends by itself.
while systemctl -q is-active "$unit"; do sleep 0.2; done

cat >"$turn/steps" && cat >"$turn/apply.sh" <<'FIEFDOM_APPLY' || fail "$turn" "cannot be written"
rm -f /run/fiefdom/turn/steps
@APPLY@
FIEFDOM_APPLY
: >"$turn/output"
systemd-run --quiet --wait --collect --unit="$unit" --description="Fiefdom: a turn of this host" \
    --property=StandardInput="file:$turn/steps" --property=StandardOutput="append:$turn/output" \
    --property=StandardError=journal \
    /bin/sh "$turn/apply.sh" &
run=$!
tail -n +1 -s 0.1 -f --pid="$run" "$turn/output" 8>&-
wait "$run"
