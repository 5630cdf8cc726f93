#!/bin/sh
# The features of the official image that the demo of the chart needs: POSTGRES_USER, POSTGRES_PASSWORD,
# POSTGRES_DB and PGDATA, and data that survive a restart.
set -eu
: "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}" "${PGDATA:=/var/lib/postgresql/data}"
bin=/usr/lib/postgresql/bin
if [ ! -f "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    "$bin/initdb" -D "$PGDATA" -U "$POSTGRES_USER" -E UTF8 --locale=C --no-sync \
        --auth-host=scram-sha-256 --auth-local=trust --pwfile=/tmp/password > /dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\"" | "$bin/postgres" --single -D "$PGDATA" postgres > /dev/null
    fi
fi
exec "$bin/postgres" -D "$PGDATA" -k /tmp -c listen_addresses='*' -c fsync=off -c max_connections=400
