#!/usr/bin/env bash
# A PostgreSQL of one's own: postgres.sh start DIR [--version 18|13] [-c NAME=VALUE]…
#                            postgres.sh stop|kill|restart DIR
# `start` prints the URL, which is also in DIR/url; `kill` is a SIGKILL of the postmaster, whose process id
# is the first line of DIR/data/postmaster.pid.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

newest=18.6.0
oldest=13.23.0

binaries() {
    local version=$1 home=$testbed/postgres-$1 machine part
    [ -x "$home/bin/postgres" ] && { echo "$home"; return; }
    case $(uname -m) in
        x86_64) machine=amd64 ;;
        aarch64) machine=arm64v8 ;;
        *) die "no PostgreSQL for $(uname -m) is known here" ;;
    esac
    say "getting PostgreSQL $version"
    part=$(part "$home")
    maven dependency:copy -DoutputDirectory="$part" \
        -Dartifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-$machine:$version"
    (cd "$part" && unzip -qo ./*.jar '*.txz' && tar xJf ./*.txz && rm ./*.jar ./*.txz)
    complete "$part" "$home"
    echo "$home"
}

init() {
    local dir=$1 home=$2 tls
    tls=$(certificates)
    # What an interrupted start left.
    rm -rf "$dir/data"
    # A socket's path has at most 107 bytes, so it does not live below DIR.
    mktemp -d /tmp/outboxd-socket-XXXXXX >"$dir/socket"
    echo outboxd >"$dir/password"
    own "$dir" "$(cat "$dir/socket")"
    $as_user "$home/bin/initdb" -D "$dir/data" -U outboxd --pwfile="$dir/password" \
        -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >"$dir/initdb.log" 2>&1 || die "initdb failed, see $dir/initdb.log"
    cp "$tls/server.crt" "$tls/server.key" "$dir/data/"
    chmod 600 "$dir/data/server.key"
    own "$dir/data"
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$(cat "$dir/socket")'
max_connections = 200
shared_buffers = 256MB
max_wal_size = 2GB
ssl = on
log_checkpoints = off
CONF
}

launch() {
    local dir=$1 home
    home=$(cat "$dir/home")
    claim_port "$(cat "$dir/port")" "$dir"
    # Someone else may have killed the postmaster.
    wait_for 30 "the end of the children of a former postmaster" childless "$dir"
    forget "$dir"
    # /tmp may have been emptied meanwhile.
    mkdir -p "$(cat "$dir/socket")"
    own "$(cat "$dir/socket")"
    # pg_ctl waits until the server accepts connections.
    $as_user "$home/bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 -o "-p $(cat "$dir/port")" start >/dev/null 2>&1 ||
        die "PostgreSQL did not start, see $dir/log"
}

start() {
    local dir=$1 version=$newest settings=() home
    shift
    while [ $# -gt 0 ]; do
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
            --version) case $2 in 13) version=$oldest ;; 18) version=$newest ;; *) version=$2 ;; esac ;;
            -c) settings+=("${2%%=*} = '${2#*=}'") ;;
            *) die "unknown option $1" ;;
        esac
        shift 2
    done
    if [ ! -f "$dir/url" ]; then
        home=$(binaries "$version")
        echo "$home" >"$dir/home"
        free_port >"$dir/port"
        init "$dir" "$home"
        echo 'create database outboxd;' | $as_user "$home/bin/postgres" --single -D "$dir/data" postgres >/dev/null 2>&1
        echo "postgres://outboxd:outboxd@127.0.0.1:$(cat "$dir/port")/outboxd" >"$dir/url"
    fi
    if ! running "$dir"; then
        # The last one counts, so a later start can change a setting.
        [ ${#settings[@]} = 0 ] || printf '%s\n' "${settings[@]}" >>"$dir/data/postgresql.conf"
        launch "$dir"
    fi
    cat "$dir/url"
}

running() { alive "$1/data/postmaster.pid" "$1/data"; }

stop() {
    running "$1" || return 0
    $as_user "$(cat "$1/home")/bin/pg_ctl" -D "$1/data" -w -t 60 -m "${2:-fast}" stop >/dev/null
}

# SIGKILL of the postmaster alone; its children notice and end by themselves.
murder() {
    local pid
    running "$1" || return 0
    pid=$(head -n 1 "$1/data/postmaster.pid")
    kill -s KILL "$pid"
    wait_for 30 "the end of the children of the postmaster" childless "$1"
}

# A killed postmaster leaves its lock files, and where nobody reaps it, its process id looks taken.
forget() { rm -f "$1/data/postmaster.pid" "$(cat "$1/socket")"/.s.PGSQL.*; }

childless() {
    local cwd
    for cwd in /proc/[0-9]*/cwd; do
        [ ! "$cwd" -ef "$1/data" ] || return 1
    done
}

command=${1:-}
dir=$(folder "$@")
shift 2
# Nothing can run in a folder that was never made.
[ "$command" != stop ] || [ -d "$dir" ] || exit 0
[ -d "$dir" ] || die "there is no folder $dir"
[ -z "$as_user" ] || $as_user test -x "$dir" || die "$dir cannot be reached by the user nobody: choose a folder below $default_home"
# The programs insist on a current folder that they can go back to.
cd "$dir"
case $command in
    start) start "$dir" "$@" ;;
    stop) if [ "${1:-}" = --immediate ]; then stop "$dir" immediate; else stop "$dir"; fi ;;
    kill) murder "$dir" ;;
    restart) stop "$dir"; launch "$dir"; cat "$dir/url" ;;
    *) die "unknown command $command" ;;
esac
