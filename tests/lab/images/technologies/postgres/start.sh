#!/bin/sh
# Starts PostgreSQL on a volume, which gets its first content here; a start that was cut off is begun anew.
set -eu
if [ ! -e "$PGDATA" ]; then
    rm -rf "$PGDATA.new"
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --pgdata "$PGDATA.new" --username service --pwfile /tmp/password --auth scram-sha-256 --encoding UTF8 --locale C
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
    sync
    mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off
