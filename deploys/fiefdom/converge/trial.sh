# An sshd with the configuration in $1 on standard input and output, for as long as somebody is at the other end.
umask 077
candidate=$(mktemp) || exit 1
trap 'rm -f "$candidate"' EXIT
trap 'exit 1' HUP INT TERM PIPE
printf %s "$1" >"$candidate"
/usr/sbin/sshd -i -e -f "$candidate"
